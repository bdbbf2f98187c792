//! By what a `Data.fs` is known. Everything else of its format is the file engine's.

/// Whether a file that begins so is a `Data.fs`: made by Python 2, or by Python 3 and by this engine.
#[must_use]
pub fn is_data_fs(begins: &[u8]) -> bool {
    begins.starts_with(b"FS21") || begins.starts_with(b"FS30")
}

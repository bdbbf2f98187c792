//! A `Data.fs` file as a storage.

#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| zeoraidctl_fuzz::run("client", data));

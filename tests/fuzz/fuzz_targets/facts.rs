#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| thriftpd_fuzz::facts(data));

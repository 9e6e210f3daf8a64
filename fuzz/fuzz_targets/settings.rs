//! libFuzzer's entry to the target `settings`; what it does is in `src/targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| thousandx_fuzz::targets::settings(bytes));

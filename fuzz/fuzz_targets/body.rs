//! libFuzzer's entry to the target `body`; what it does is in `src/targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| thousandx_fuzz::targets::body(bytes));

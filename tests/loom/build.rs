//! Sets `cfg(loom)` for this crate only; see Cargo.toml for why not for all of them.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}

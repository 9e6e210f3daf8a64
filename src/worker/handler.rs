//! What a worker does with a task: the one trait that a Rust user replaces.

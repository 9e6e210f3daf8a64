//! The watcher: one thread that asks for metadata, so that a lost broker, a missing topic or a new partition is known
//! within a second.

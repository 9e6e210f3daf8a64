//! One file per command; wires parts together, owns no logic.

pub mod topics;
pub mod work;

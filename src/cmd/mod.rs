//! One file per command; wires parts together, owns no logic.

//! Structured logs: text on a terminal, JSON otherwise.

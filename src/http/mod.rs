//! HTTP meaning: which request is what, and what it is answered.

pub mod body;
pub mod queue;
pub mod respond;
pub mod route;

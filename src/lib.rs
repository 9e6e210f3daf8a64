//! A synchronous front door to Kafka. The life of a request, in file order:
//!
//! `net/accept → net/conn → http/route → http/queue → admit → correlate/table → kafka/wire → kafka/submit ⋯ worker ⋯
//! kafka/replies → correlate/table → http/queue → http/respond`
//!
//! Modules are listed in that order. Imports point downwards only; `error`, `config`, `lifecycle` and `observe` may
//! be used by all.

pub mod cmd;
pub mod net;
pub mod scheduling;

pub mod http;

pub mod admit;
pub mod kafka;
pub mod worker;

pub mod correlate;

pub mod config;
pub mod error;
pub mod lifecycle;
pub mod observe;

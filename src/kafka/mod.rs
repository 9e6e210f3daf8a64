//! Tasks out, replies in.

pub mod client;
pub mod embedded;
pub mod native;
pub mod replies;
pub mod submit;
pub mod watch;
pub mod wire;

//! Tasks out, replies in.

pub mod client;
pub mod embedded;
pub mod native;
pub mod replies;
pub mod submit;
pub mod watch;
pub mod wire;

/// stub
pub struct KafkaHandle;
impl KafkaHandle {
    /// stub
    pub fn submitter(&self, _shard: u8) -> submit::Submitter {
        todo!()
    }
    /// stub
    pub fn metrics(&self) -> std::sync::Arc<dyn crate::observe::metrics::Collect> {
        todo!()
    }
    /// stub
    pub fn close(&self, _grace: std::time::Duration) {}
}
/// stub
pub fn start(
    _: &crate::config::KafkaSettings,
    _: u32,
    _: Vec<crate::correlate::mailbox::Sender<wire::Completion>>,
    _: crate::lifecycle::Part,
    _: crate::lifecycle::Part,
) -> Result<KafkaHandle, crate::error::StartError> {
    todo!()
}

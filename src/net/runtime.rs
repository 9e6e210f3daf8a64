//! One thread and one single-threaded runtime per shard: what belongs to a request never leaves its core.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};

/// After so many task polls the runtime looks at the sockets again. Tokio's default of 61 makes more, smaller rounds;
/// a round here is a batch for Redis and Kafka, so a longer one is cheaper at load and the same when idle.
const EVENT_INTERVAL: u32 = 256;

/// Starts the thread of shard `index`, which runs `body` to its end on its own runtime.
///
/// # Errors
/// The operating system refused the thread; inside the handle: it refused the runtime.
pub fn spawn_shard<F, T>(index: u8, body: F) -> io::Result<JoinHandle<io::Result<T>>>
where
    F: AsyncFnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
        let mut builder = Builder::new_current_thread();
        builder.enable_io().enable_time().event_interval(EVENT_INTERVAL);
        let runtime = builder.build_local(LocalOptions::default())?;
        Ok(runtime.block_on(body()))
    })
}

//! `thousandx work`: the sample worker on real Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::error::StartError;
use crate::worker::{self, GiftCode, Membership, WorkerCounts};

/// Works until SIGTERM or SIGINT, then finishes what was taken, commits and leaves the group.
#[expect(clippy::needless_pass_by_value, reason = "every command takes its configuration whole")]
pub fn run(config: Config) -> Result<(), StartError> {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&stop))?;
    tracing::info!(
        topic = config.kafka.tasks_topic,
        group = config.worker.group,
        threads = config.worker.threads,
        "the worker starts"
    );
    let counts = Arc::new(WorkerCounts::default());
    worker::run(&config.worker, &config.kafka, &Arc::new(GiftCode), Membership::Group, &stop, &counts)
}

/// The first signal sets `stop`; the second ends the process, for an operator who does not want to wait.
fn stop_on_signal(stop: Arc<AtomicBool>) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut term, mut int) = {
        let _guard = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let wait = move || {
        runtime.block_on(async {
            for last in [false, true] {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if last {
                    tracing::warn!("second signal: tasks under way will be done again by another worker");
                    std::process::exit(1);
                }
                tracing::info!("stopping: tasks under way are finished first");
                stop.store(true, Ordering::Relaxed);
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

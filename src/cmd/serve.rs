//! `thousandx serve`: the server on real Kafka and Redis.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::service::Service;
use crate::config::Config;
use crate::error::StartError;
use crate::lifecycle::Phase;
use crate::net::socket;

/// How often the start looks whether every part is ready.
const READY_TICK: std::time::Duration = std::time::Duration::from_millis(10);

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends at once.
#[expect(clippy::needless_pass_by_value, reason = "every command takes its configuration whole")]
pub fn run(config: Config) -> Result<(), StartError> {
    if !config.http.listen.ip().is_loopback() {
        tracing::warn!(address = %config.http.listen, "listening beyond this machine, without authentication");
    }
    // A second server on the same port would get a share of the first one's connections, and nobody would notice.
    socket::ensure_free(config.http.listen)?;
    config.http.admin.map_or(Ok(()), socket::ensure_free)?;
    serve(&config, |_| tracing::info!("ready"))
}

/// Serves, and calls `on_ready` once every part has been ready.
pub(super) fn serve(config: &Config, on_ready: impl FnOnce(&Service)) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let service = Service::start(config)?;
        tokio::select! {
            () = ready(&service) => on_ready(&service),
            () = signals.next() => return drain(service, signals).await,
        }
        signals.next().await;
        drain(service, signals).await
    })
}

async fn ready(service: &Service) {
    while !service.life.is_ready() {
        tokio::time::sleep(READY_TICK).await;
    }
    service.life.advance(Phase::Running);
}

async fn drain(service: Service, mut signals: Signals) -> Result<(), StartError> {
    let hurry = CancellationToken::new();
    tokio::select! {
        drained = service.drain(hurry.clone()) => drained,
        // Never ready: it only turns the second signal into an order to hurry.
        () = async { signals.next().await; hurry.cancel(); std::future::pending().await } => Ok(()),
    }
}

/// SIGTERM (the orchestrator) and SIGINT (Ctrl-C): both ask for a drain.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, StartError> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

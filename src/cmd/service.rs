//! The server as a whole: builds every part, starts the shards, ends them in order.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::shard::{self, ShardEnd, ShardParts};
use crate::admit::local::LocalLimiter;
use crate::config::{Config, LimiterKind};
use crate::correlate::{ShardAddress, mailbox};
use crate::error::StartError;
use crate::http::budget::ByteBudget;
use crate::http::pacing::RefusalPace;
use crate::kafka::{self, KafkaHandle};
use crate::lifecycle::{Lifecycle, Phase};
use crate::net::accept::ConnectionCap;
use crate::net::{runtime, socket};
use crate::observe::metrics::Registry;
use crate::observe::process::Process;

/// Batches of replies that may wait for one shard. The reader makes one per round and shard, so that only a shard that
/// hangs for seconds can have so many.
const MAILBOX_BATCHES_MAX: usize = 4096;
/// At the end of a drain: so long tasks of clients that have left may take to reach the broker.
const FLUSH: Duration = Duration::from_secs(1);

/// A running server. [`Service::drain`] ends it; dropping it leaves its threads to the end of the process.
pub struct Service {
    /// Phase and readiness.
    pub life: Arc<Lifecycle>,
    /// Where it listens; the port is real even when 0 was asked for.
    pub address: SocketAddr,
    stop: Stop,
    shards: Vec<oneshot::Receiver<ShardEnd>>,
    kafka: KafkaHandle,
    delay: Duration,
    grace: Duration,
}

/// The two orders that end a shard.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// Accept nothing more, end when the last connection has.
    pub(super) accepting: CancellationToken,
    /// Answer 503 to what still waits, and end.
    pub(super) waiting: CancellationToken,
}

impl Service {
    /// Starts everything. Returns as soon as the sockets listen; `life` tells when Kafka and Redis are there.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let life = Lifecycle::new();
        let registry = Arc::new(Registry::default());
        let shards = config.http.shards;
        let connections_max = socket::fit_descriptors(config.http.connections_max);
        let cap = ConnectionCap::new(connections_max);
        let listeners = socket::listen(config.http.listen, shards)?;
        let address = listeners.first().map_or(Ok(config.http.listen), TcpListener::local_addr)?;
        let mut admin = config.http.admin.map(|address| socket::listen(address, 1)).transpose()?;

        let instance = rand::rng().random_range(0..1 << 20);
        let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mailbox::mailbox(MAILBOX_BATCHES_MAX)).unzip();
        let producer = life.register("kafka producer");
        let replies = life.register("kafka replies");
        let kafka = kafka::start(&config.kafka, instance, senders, producer, replies)?;
        registry.add(kafka.metrics());
        registry.add(Arc::new(Process::new()));

        let limiter = config.limiter.clone();
        let local =
            (limiter.kind == LimiterKind::Local).then(|| LocalLimiter::new(limiter.capacity, limiter.rate_per_s));
        let stop = Stop::default();
        let arriving = Arc::new(ByteBudget::new(config.http.buffered_bytes_max));
        // Refusals that wait leave half of the connections to others.
        let pace = RefusalPace::new(config.http.refusals_per_s, config.http.reply_timeout, connections_max / 2);
        let refusals = Arc::new(pace);
        let mut ends = Vec::new();
        for (index, (listener, mailbox)) in (0..shards).zip(listeners.into_iter().zip(mailboxes)) {
            let parts = ShardParts {
                address: ShardAddress { instance, shard: index },
                http: config.http.clone(),
                limiter: limiter.clone(),
                local: local.clone(),
                limiter_part: local.is_none().then(|| life.register(format!("limiter {index}"))),
                listener,
                admin: admin.as_mut().and_then(Vec::pop),
                mailbox,
                submitter: kafka.submitter(index),
                life: Arc::clone(&life),
                registry: Arc::clone(&registry),
                cap: cap.clone(),
                arriving: Arc::clone(&arriving),
                refusals: Arc::clone(&refusals),
                stop: stop.clone(),
            };
            ends.push(start_shard(index, parts)?);
        }
        tracing::info!(%address, shards, instance = format!("{instance:05x}"), "listening");
        let (delay, grace) = (config.http.drain_delay, config.http.drain_grace);
        Ok(Self { life, address, stop, shards: ends, kafka, delay, grace })
    }

    /// Ends the server: not ready, then no new connections, then the end of the last request or of the grace. `hurry`
    /// skips what is left of the delay and the grace.
    ///
    /// # Errors
    /// [`StartError::CutOff`] when requests had to be answered 503.
    pub async fn drain(self, hurry: CancellationToken) -> Result<(), StartError> {
        let begun = std::time::Instant::now();
        self.life.advance(Phase::Draining);
        tracing::info!(delay_ms = self.delay.as_millis(), grace_ms = self.grace.as_millis(), "draining");
        let _ = tokio::time::timeout(self.delay, hurry.cancelled()).await;
        self.stop.accepting.cancel();

        let mut ended = std::pin::pin!(all_ended(self.shards));
        let ShardEnd { cut_off, leased } = tokio::select! {
            end = &mut ended => end,
            _ = tokio::time::timeout(self.grace, hurry.cancelled()) => {
                self.life.advance(Phase::Closed);
                self.stop.waiting.cancel();
                // A shard that hangs must not hold up the end; its permits are left to their lease.
                tokio::time::timeout(shard::END, ended).await.unwrap_or_default()
            }
        };
        self.kafka.close(FLUSH);
        let drain_ms = begun.elapsed().as_millis();
        if cut_off > 0 || leased > 0 {
            tracing::warn!(drain_ms, cut_off, leased, "drained, with requests cut off or permits left to their lease");
        } else {
            tracing::info!(drain_ms, "drained");
        }
        if cut_off > 0 { Err(StartError::CutOff(cut_off)) } else { Ok(()) }
    }
}

/// The sum of how the shards ended. One that panicked has nothing to say; its permits are left to their lease.
async fn all_ended(shards: Vec<oneshot::Receiver<ShardEnd>>) -> ShardEnd {
    let mut sum = ShardEnd::default();
    for shard in shards {
        let end = shard.await.unwrap_or_default();
        sum = ShardEnd { cut_off: sum.cut_off + end.cut_off, leased: sum.leased + end.leased };
    }
    sum
}

/// Starts the thread of a shard and waits until its parts are built, so that what is wrong with them ends the start.
fn start_shard(index: u8, parts: ShardParts) -> Result<oneshot::Receiver<ShardEnd>, StartError> {
    let (built, outcome) = std::sync::mpsc::sync_channel(1);
    let (ended, end) = oneshot::channel();
    runtime::spawn_shard(index, async move || match shard::build(parts) {
        Ok(shard) => {
            let _ = built.send(Ok(()));
            let _ = ended.send(shard.run().await);
        }
        Err(error) => {
            let _ = built.send(Err(error));
        }
    })?;
    outcome.recv().map_err(|_| std::io::Error::other("a shard's thread ended at once"))??;
    Ok(end)
}

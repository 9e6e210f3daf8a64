//! One shard: its parts, its tasks, its end.

use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::service::Stop;
use crate::admit::Admission;
use crate::admit::local::LocalLimiter;
use crate::admit::redis::{RedisLimiter, RedisMetrics};
use crate::config::{HttpSettings, LimiterSettings};
use crate::correlate::{ShardAddress, Table, mailbox};
use crate::error::StartError;
use crate::http::budget::ByteBudget;
use crate::http::metrics::HttpMetrics;
use crate::http::pacing::RefusalPace;
use crate::http::{self, Door, Gateway};
use crate::kafka::submit::Submitter;
use crate::kafka::wire::{Completion, Outcome};
use crate::lifecycle::{Lifecycle, Part};
use crate::net::NetMetrics;
use crate::net::accept::{ConnectionCap, accept};
use crate::net::sweep::Net;
use crate::observe::metrics::Registry;

/// How often deadlines are looked at: a reply timeout comes at most so much late.
const DEADLINE_TICK: Duration = Duration::from_millis(20);
/// How often an ending shard looks whether its last connection has closed.
const DRAIN_TICK: Duration = Duration::from_millis(10);
/// After the grace: so many ticks (0.6 s) the 503s, and 429s that wait for their turn (half a second at most), have to get
/// out before the sockets close.
const LAST_WORDS_TICKS: u32 = 60;
/// At the end: so long the last releases may take before they are left to their lease.
const RELEASE: Duration = Duration::from_secs(1);

/// After the grace: the longest that a shard needs to end, with a second to spare on a busy machine.
pub(super) const END: Duration = Duration::from_secs(1 + RELEASE.as_secs() + 1);
/// Connections of `ADMIN_ADDR`: scrapers and probes.
const ADMIN_CONNECTIONS_MAX: usize = 100;

/// What a shard is made from; crosses to its thread.
pub(super) struct ShardParts {
    pub(super) address: ShardAddress,
    pub(super) http: HttpSettings,
    pub(super) limiter: LimiterSettings,
    /// The process's limiter, when Redis is not used.
    pub(super) local: Option<LocalLimiter>,
    /// Readiness of this shard's Redis connection.
    pub(super) limiter_part: Option<Part>,
    pub(super) listener: StdListener,
    pub(super) admin: Option<StdListener>,
    pub(super) mailbox: mailbox::Receiver<Completion>,
    pub(super) submitter: Submitter,
    pub(super) life: Arc<Lifecycle>,
    pub(super) registry: Arc<Registry>,
    pub(super) cap: ConnectionCap,
    pub(super) arriving: Arc<ByteBudget>,
    pub(super) refusals: Arc<RefusalPace>,
    pub(super) stop: Stop,
}

/// How a shard ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShardEnd {
    /// Requests that got 503 because the grace was over.
    pub(super) cut_off: usize,
    /// Permits whose release could not be sent.
    pub(super) leased: usize,
}

/// A built shard.
pub(super) struct Shard {
    listener: TcpListener,
    admin: Option<(TcpListener, Rc<Gateway>)>,
    net: Rc<Net>,
    gateway: Rc<Gateway>,
    cap: ConnectionCap,
    stop: Stop,
    mailbox: mailbox::Receiver<Completion>,
}

/// Builds the shard on its own runtime.
pub(super) fn build(parts: ShardParts) -> Result<Shard, StartError> {
    let metrics = Arc::new(HttpMetrics::default());
    let net_metrics = Arc::new(NetMetrics::default());
    parts.registry.add(Arc::clone(&metrics) as _);
    parts.registry.add(Arc::clone(&net_metrics) as _);
    let admission = admission(&parts)?;
    let shards = u32::from(parts.http.shards.max(1));
    let is_apart = parts.http.admin.is_some();
    let net = Net::new(&parts.http, Arc::clone(&parts.life), net_metrics);
    let gateway = Gateway {
        door: if is_apart { Door::Public } else { Door::Whole },
        table: Table::new(parts.address, parts.http.waiting_max.div_ceil(shards)),
        settings: Rc::new(parts.http),
        admission,
        submitter: parts.submitter,
        life: parts.life,
        registry: parts.registry,
        metrics,
        clock: Rc::default(),
        random: http::random(),
        arriving: parts.arriving,
        refusals: parts.refusals,
    };
    let admin = parts
        .admin
        .map(|listener| Ok::<_, std::io::Error>((TcpListener::from_std(listener)?, gateway.through(Door::Admin))))
        .transpose()?;
    Ok(Shard {
        listener: TcpListener::from_std(parts.listener)?,
        admin,
        net,
        gateway: Rc::new(gateway),
        cap: parts.cap,
        stop: parts.stop,
        mailbox: parts.mailbox,
    })
}

fn admission(parts: &ShardParts) -> Result<Admission, StartError> {
    if let Some(local) = &parts.local {
        return Ok(Admission::Local(local.clone()));
    }
    let metrics = Arc::new(RedisMetrics::default());
    parts.registry.add(Arc::clone(&metrics) as _);
    let part = parts.limiter_part.clone().unwrap_or_else(|| parts.life.register("limiter"));
    Ok(Admission::Redis(RedisLimiter::start(&parts.limiter, part, metrics)?))
}

impl Shard {
    /// Serves until it is told to stop, then ends its requests and gives back its permits.
    pub(super) async fn run(self) -> ShardEnd {
        let Self { listener, admin, net, gateway, cap, stop, mailbox } = self;
        spawn_local(deliver(mailbox, Rc::clone(&gateway)));
        spawn_local(keep_deadlines(Rc::clone(&gateway)));
        spawn_local(Rc::clone(&net).sweep());
        if let Some((listener, gateway)) = admin {
            // A cap of its own: a full server still tells its state.
            let cap = ConnectionCap::new(ADMIN_CONNECTIONS_MAX);
            spawn_local(accept(listener, Rc::clone(&net), gateway, cap, stop.accepting.clone()));
        }
        accept(listener, Rc::clone(&net), Rc::clone(&gateway), cap, stop.accepting).await;

        let cut_off = tokio::select! {
            () = all_closed(&net) => 0,
            () = stop.waiting.cancelled() => cut_off_all(&net, &gateway).await,
        };
        let leased = match &gateway.admission {
            Admission::Redis(limiter) => limiter.close(RELEASE).await,
            Admission::Local(_) => 0,
        };
        ShardEnd { cut_off, leased }
    }
}

/// Brings replies from the mailbox to those who wait for them.
async fn deliver(mut mailbox: mailbox::Receiver<Completion>, gateway: Rc<Gateway>) {
    while let Some(batch) = mailbox.recv().await {
        let mut batch = Some(batch);
        while let Some(completions) = batch {
            for Completion { id, outcome } in completions {
                // A task that did not get out is no reply, whoever still waited for it.
                let is_reply = !matches!(outcome, Outcome::Undelivered(_));
                let delivery = gateway.table.complete(id, outcome);
                if is_reply {
                    gateway.metrics.reply(delivery);
                }
            }
            batch = mailbox.try_recv();
        }
    }
}

/// One tick for all deadlines of the shard instead of one timer per request, and for what else needs no exact time.
async fn keep_deadlines(gateway: Rc<Gateway>) {
    let mut interval = tokio::time::interval(DEADLINE_TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut answers = 0;
    loop {
        interval.tick().await;
        let now = Instant::now();
        gateway.clock.renew();
        gateway.table.expire(now);
        let before = std::mem::replace(&mut answers, gateway.metrics.answers());
        if answers != before {
            gateway.refusals.answered(now);
        }
    }
}

/// Answers 503 to all that wait, also to those that get their permit only now; returns how many.
async fn cut_off_all(net: &Net, gateway: &Gateway) -> usize {
    let mut cut_off = 0;
    for _ in 0..LAST_WORDS_TICKS {
        cut_off += gateway.table.complete_all(|| Outcome::Draining);
        if net.open() == 0 {
            break;
        }
        tokio::time::sleep(DRAIN_TICK).await;
    }
    cut_off
}

async fn all_closed(net: &Net) {
    while net.open() > 0 {
        tokio::time::sleep(DRAIN_TICK).await;
    }
}

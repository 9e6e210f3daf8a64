//! Tasks out, replies in.
//!
//! Three threads: *delivery* polls the producer for failed tasks, *reader* reads replies, *watcher* asks for metadata.
//! The first two post to the shards' mailboxes; all three share one [`health::Health`], which the request path reads.

pub mod client;
mod counts;
pub mod embedded;
mod health;
pub mod lanes;
pub mod native;
pub mod replies;
pub mod submit;
pub mod watch;
pub mod wire;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel;

use crate::config::KafkaSettings;
use crate::correlate::mailbox;
use crate::error::StartError;
use crate::lifecycle::Part;
use crate::observe::metrics::Collect;
use counts::{KafkaCounts, ProduceErrors, ReplyCounts};
use health::Health;
use lanes::Lanes;
use native::{Consumer, Events, code_text};
use submit::{ProducerEvents, Sticky, Submitter, WayOut};
use wire::{Completion, Layout};

/// The running Kafka part of the server. Dropping it stops the threads without waiting; see [`KafkaHandle::close`].
pub struct KafkaHandle {
    lanes: Lanes,
    way: Arc<WayOut>,
    counts: Arc<KafkaCounts>,
    stop: Arc<AtomicBool>,
    /// The watcher ends when this is dropped.
    _stop_watcher: channel::Sender<Infallible>,
    delivery: Option<JoinHandle<()>>,
}

/// Starts the clients and threads. Does not wait for a broker: the parts turn ready when Kafka takes tasks
/// (`producer_part`) and when the position of every reply partition is fixed (`reply_part`).
///
/// `instance` is in every id that `shards` make; their index is the shard number.
pub fn start(
    settings: &KafkaSettings,
    instance: u32,
    shards: Vec<mailbox::Sender<Completion>>,
    producer_part: Part,
    reply_part: Part,
) -> Result<KafkaHandle, StartError> {
    let layout = Arc::new(Layout::new(settings)?);
    let health = Arc::new(Health::new(producer_part, reply_part));
    let errors = Arc::new(ProduceErrors::default());
    let replies = Arc::new(ReplyCounts::default());
    let stop = Arc::new(AtomicBool::new(false));

    let events = Arc::new(ProducerEvents::new(Arc::clone(&layout), Arc::clone(&health), Arc::clone(&errors)));
    let callbacks: Arc<dyn Events> = events.clone();
    let lanes = Lanes::new(settings, client::task_producer, &callbacks)?;
    let topic = |name: &str| {
        lanes.topic(name).map_err(|code| StartError::Kafka(format!("topic {name:?}: {}", code_text(code))))
    };
    let way = Arc::new(WayOut {
        topic: topic(&settings.tasks_topic)?,
        results: topic(&settings.results_topic)?,
        layout: Arc::clone(&layout),
        health: Arc::clone(&health),
        errors: Arc::clone(&errors),
    });

    let reader_lost = Arc::new(AtomicBool::new(false));
    let reader_events = replies::ReaderEvents { health: Arc::clone(&health), lost: Arc::clone(&reader_lost) };
    let consumer =
        Consumer::new(client::reply_reader(settings)?, Arc::new(reader_events)).map_err(StartError::Kafka)?;
    let consumer = Arc::new(consumer);

    let counts = Arc::new(KafkaCounts {
        produced: shards.iter().map(|_| Arc::default()).collect(),
        errors,
        replies: Arc::clone(&replies),
        health: Arc::clone(&health),
        lanes: lanes.clone(),
    });

    let reader =
        replies::Reader { consumer: Arc::clone(&consumer), layout, instance, shards: shards.clone(), counts: replies };
    let watcher = watch::Watcher {
        lanes: lanes.clone(),
        producer_events: Arc::clone(&events),
        consumer,
        health,
        tasks_topic: settings.tasks_topic.clone(),
        results_topic: settings.results_topic.clone(),
        routing: settings.routing.clone(),
        reader_lost,
        looks_left: 0,
        assigned: BTreeSet::new(),
        complete_once: false,
        left_over: BTreeSet::new(),
        leaders_until: None,
        new_partition_wait: settings.new_partition_wait,
        tasks_known: watch::Known::default(),
        results_known: watch::Known::default(),
    };
    let (stop_watcher, watcher_stop) = channel::bounded(0);
    let reader_stop = Arc::clone(&stop);
    spawn("kafka-replies", move || reader.run(&reader_stop))?;
    spawn("kafka-watch", move || watcher.run(&watcher_stop))?;
    let (delivery_lanes, delivery_stop) = (lanes.clone(), Arc::clone(&stop));
    let deliver = move || submit::deliver(&delivery_lanes, &events, &shards, &delivery_stop);
    let delivery = Some(spawn("kafka-delivery", deliver)?);
    Ok(KafkaHandle { lanes, way, counts, stop, _stop_watcher: stop_watcher, delivery })
}

impl KafkaHandle {
    /// The handle of one shard, by its index.
    #[must_use]
    pub fn submitter(&self, shard: u8) -> Submitter {
        let produced = self.counts.produced.get(usize::from(shard)).cloned().unwrap_or_default();
        Submitter {
            way: Arc::clone(&self.way),
            sticky: Arc::new(Sticky::of_one_in(self.counts.produced.len())),
            produced,
        }
    }

    /// What `/metrics` reads.
    #[must_use]
    pub fn metrics(&self) -> Arc<dyn Collect> {
        self.counts.clone()
    }

    /// Waits until every queued task is delivered or given up, at most until `deadline` has passed, then stops the
    /// threads. Returns how many tasks were still on their way. Never waits for librdkafka's destructor.
    pub fn close(mut self, deadline: Duration) -> usize {
        let end = Instant::now() + deadline;
        if !self.lanes.flush(deadline) {
            tracing::warn!(tasks = self.lanes.queued(), "tasks were not acknowledged before the end");
        }
        let left = self.lanes.queued();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(delivery) = self.delivery.take() {
            // It posts the last failures; it ends within one poll, which a report cuts short.
            while !delivery.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        left
    }
}

impl Drop for KafkaHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    Ok(std::thread::Builder::new().name(name.into()).spawn(body)?)
}

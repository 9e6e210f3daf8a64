//! poll → handle → produce the reply → commit.
//!
//! Each thread has a consumer and a producer of its own and shares nothing with the others but counters. A round is one
//! batch of tasks, as many as the handler does in a tenth of a second; acknowledgements of earlier rounds are taken in
//! between, and the offsets behind which everything is acknowledged are stored for the next commit. What a round or a
//! stop leaves over is not taken up: it comes again, here or at another worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::handler::{Failure, Handler, WorkerAnswer, WorkerTask};
use super::pace::{Pace, ROUND_TASKS_MAX, ROUND_TIME_MAX};
use super::replies::{Fate, Quiet, Replies, Reports};
use super::track::Tracker;
use crate::config::{KafkaSettings, WorkerSettings};
use crate::error::StartError;
use crate::kafka::client;
use crate::kafka::lanes::{Lanes, Meter};
use crate::kafka::native::{Batch, Code, Consumer, Events, Message, Position, Revoked, code_name, code_text};
use crate::kafka::wire::{Layout, ReplyRecord};
use crate::observe::clock::Clock;
use crate::observe::metrics::Counter;

/// How long a round waits for its first task; also how soon a stop is seen.
const TASK_WAIT: Duration = Duration::from_millis(100);
/// How long outstanding replies are waited for when partitions are taken away, or at the end.
const DRAIN_WAIT: Duration = Duration::from_secs(5);
/// How often the last commit is tried.
const COMMIT_TRIES_MAX: u32 = 3;
/// How long a seek may take; one that fails is tried again.
const SEEK_WAIT: Duration = Duration::from_secs(5);
/// Between two tries to learn the partitions of the tasks topic.
const METADATA_WAIT: Duration = Duration::from_millis(500);

/// Without a task for so long, the consumer is asked for its broker: it may have lost it without an error.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// `(partition, offset)`.
type Offsets = Vec<(i32, i64)>;

/// How the threads get their partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// From the consumer group; offsets are committed.
    Group,
    /// All partitions, dealt out among the threads, from the beginning; nothing is committed. For the embedded broker,
    /// whose groups take three seconds to form.
    Assigned,
}

/// What all threads did.
#[derive(Debug, Default)]
pub struct WorkerCounts {
    /// Tasks whose handler returned an answer.
    pub answered: Counter,
    /// Tasks whose handler failed or panicked.
    pub failed: Counter,
    /// Tasks whose deadline had passed.
    pub expired: Counter,
    /// Records without a usable id.
    pub hostile: Counter,
    /// Replies that no topic takes.
    pub undeliverable: Counter,
    /// Times a partition was read again because a reply was lost.
    pub rewound: Counter,
}

/// Runs `settings.threads` threads until `stop`, then lets them finish what they took, commit and leave the group.
/// `counts` may be read meanwhile.
pub fn run<H: Handler>(
    settings: &WorkerSettings,
    kafka: &KafkaSettings,
    handler: &Arc<H>,
    membership: Membership,
    stop: &Arc<AtomicBool>,
    counts: &Arc<WorkerCounts>,
) -> Result<(), StartError> {
    let threads = usize::from(settings.threads.max(1));
    let mut running = Vec::with_capacity(threads);
    for index in 0..threads {
        let worker = Worker::new(settings, kafka, Arc::clone(handler), Arc::clone(counts), membership)?;
        let stop = Arc::clone(stop);
        let body = move || worker.run(index, threads, &stop);
        running.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?);
    }
    // Every thread commits before the first one leaves: its leaving starts a rebalance, in which commits are refused.
    let finished: Vec<_> = running.into_iter().map(std::thread::JoinHandle::join).collect();
    for consumer in finished {
        match consumer {
            Ok(consumer) if membership == Membership::Group => leave(&consumer),
            Ok(_) => {}
            Err(_) => tracing::error!("a worker thread panicked"),
        }
    }
    tracing::info!(
        answered = counts.answered.get(),
        failed = counts.failed.get(),
        expired = counts.expired.get(),
        hostile = counts.hostile.get(),
        "the worker has stopped"
    );
    Ok(())
}

/// One thread.
struct Worker<H> {
    handler: Arc<H>,
    consumer: Consumer,
    replies: Replies,
    layout: Arc<Layout>,
    tasks_topic: String,
    progress: Arc<Progress>,
    counts: Arc<WorkerCounts>,
    membership: Membership,
    answer: WorkerAnswer,
    /// For warnings about partitions that cannot be rewound.
    stuck: Quiet,
    /// Of this thread's replies.
    meter: Meter,
}

/// What the rebalance callback needs of its thread.
struct Progress {
    tracker: Mutex<Tracker>,
    reports: Arc<Reports>,
    lanes: Lanes,
    tasks_topic: String,
    counts: Arc<WorkerCounts>,
    quiet: Quiet,
}

impl<H: Handler> Worker<H> {
    fn new(
        settings: &WorkerSettings,
        kafka: &KafkaSettings,
        handler: Arc<H>,
        counts: Arc<WorkerCounts>,
        membership: Membership,
    ) -> Result<Self, StartError> {
        let layout = Arc::new(Layout::new(kafka)?);
        let replies = Replies::new(kafka, Arc::clone(&layout))?;
        let progress = Arc::new(Progress {
            tracker: Mutex::default(),
            reports: Arc::clone(&replies.reports),
            lanes: replies.lanes.clone(),
            tasks_topic: kafka.tasks_topic.clone(),
            counts: Arc::clone(&counts),
            quiet: Quiet::default(),
        });
        let mut conf = client::task_consumer(kafka, settings)?;
        if membership == Membership::Group {
            conf.rebalance_by_callback();
        }
        let consumer = Consumer::new(conf, progress.clone()).map_err(StartError::Kafka)?;
        let tasks_topic = kafka.tasks_topic.clone();
        let answer = WorkerAnswer::default();
        let stuck = Quiet::default();
        let meter = Meter::of_one_in(usize::from(settings.threads));
        Ok(Self { handler, consumer, replies, layout, tasks_topic, progress, counts, membership, answer, stuck, meter })
    }

    /// Works until `stop`; gives back the consumer, with everything committed, to leave the group.
    fn run(mut self, index: usize, threads: usize, stop: &AtomicBool) -> Consumer {
        let joined = match self.membership {
            Membership::Group => self.consumer.subscribe(&self.tasks_topic),
            Membership::Assigned => self.assign(index, threads, stop),
        };
        if let Err(code) = joined {
            tracing::error!(error = code_text(code), topic = self.tasks_topic, "the worker cannot read tasks");
            return self.consumer;
        }
        let mut batch = self.consumer.batch(ROUND_TASKS_MAX);
        let mut pace = Pace::default();
        let mut idle_since = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            self.settle();
            self.rewind();
            if self.consumer.consume(&mut batch, pace.tasks(), TASK_WAIT) == 0 {
                if idle_since.elapsed() > IDLE_MAX {
                    // That it is told its brokers again is all that is wanted.
                    let _ = self.consumer.metadata(METADATA_WAIT);
                    idle_since = Instant::now();
                }
                continue;
            }
            let started = Instant::now();
            idle_since = started;
            let done = self.round(&batch, started, stop);
            pace.learn(done, started.elapsed());
        }
        batch.clear();
        self.finish();
        self.consumer
    }

    /// Every `threads`th partition, from the first record.
    fn assign(&self, index: usize, threads: usize, stop: &AtomicBool) -> Result<(), Code> {
        let _known = self.replies.lanes.topic(&self.tasks_topic)?;
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let topics = self.replies.lanes.metadata(METADATA_WAIT).unwrap_or_default();
            let topic = topics.iter().find(|topic| topic.name == self.tasks_topic && !topic.partitions.is_empty());
            if let Some(topic) = topic {
                let mine: Vec<_> = topic.partitions.iter().skip(index).step_by(threads).collect();
                let positions: Vec<_> = mine.iter().map(|(id, _)| (*id, Position::Beginning)).collect();
                return self.consumer.assign_also(&self.tasks_topic, &positions);
            }
            self.replies.lanes.poll(METADATA_WAIT.saturating_sub(asked.elapsed()));
        }
        Ok(())
    }

    /// Takes tasks until the batch or the time of a round is over, or a stop is wanted; the rest is given back. Returns
    /// how many were taken.
    fn round(&mut self, batch: &Batch, started: Instant, stop: &AtomicBool) -> usize {
        // One clock read per task serves both: the end of the round, and the task's deadline in Unix time.
        let clock = Clock::new();
        let mut done = 0;
        for message in batch.iter() {
            let now = Instant::now();
            if done > 0 && (now.duration_since(started) >= ROUND_TIME_MAX || stop.load(Ordering::Relaxed)) {
                let mut tracker = lock(&self.progress.tracker);
                for left in batch.iter().skip(done).filter(|left| left.error().is_none()) {
                    tracker.give_back(left.partition(), left.offset());
                }
                break;
            }
            self.take(&message, clock.unix_ms_at(now));
            done += 1;
        }
        done
    }

    /// One task, or what came in its place.
    fn take(&mut self, message: &Message<'_>, now_unix_ms: u64) {
        if let Some(code) = message.error() {
            tracing::warn!(partition = message.partition(), code = code_name(code), "a tasks partition cannot be read");
            return;
        }
        let Some(ticket) = lock(&self.progress.tracker).begin(message.partition(), message.offset()) else { return };
        let Some(task) = self.layout.read_task(message.headers(), message.payload()) else {
            self.counts.hostile.inc();
            return lock(&self.progress.tracker).done(ticket);
        };
        if task.deadline_unix_ms.is_some_and(|deadline| deadline <= now_unix_ms) {
            self.counts.expired.inc();
            return lock(&self.progress.tracker).done(ticket);
        }
        let asked = WorkerTask { body: message.payload(), content_type: task.content_type, key: task.key };
        let failure = self.handle(&asked).err();
        let reply = ReplyRecord {
            key: task.key,
            body: &self.answer.body,
            status: self.answer.status,
            content_type: self.answer.content_type.map(str::as_bytes),
            error: failure.as_ref().map(|failure| failure.code.as_ref()),
        };
        self.replies.send(self.meter.count(now_unix_ms).lane, &task, &reply, ticket);
    }

    fn handle(&mut self, task: &WorkerTask<'_>) -> Result<(), Failure> {
        self.answer.clear();
        let (handler, answer) = (&self.handler, &mut self.answer);
        let result = catch_unwind(AssertUnwindSafe(|| handler.handle(task, answer)));
        let result = result.unwrap_or_else(|_| Err(Failure { code: "panic".into() }));
        let counter = if result.is_ok() { &self.counts.answered } else { &self.counts.failed };
        counter.inc();
        result
    }

    /// Takes the acknowledgements that came and stores how far the partitions are.
    fn settle(&self) {
        self.replies.lanes.poll(Duration::ZERO);
        let next = self.progress.settle();
        if self.membership == Membership::Group && !next.is_empty() {
            // A partition that was taken away meanwhile is somebody else's now: nothing to store.
            if let Err(code) = self.consumer.store(&self.tasks_topic, &next) {
                tracing::debug!(error = code_text(code), "offsets were not stored");
            }
        }
    }

    /// Goes back where a reply was lost or tasks were given back. A partition in which that fails stands still until the
    /// next try: to go on would be to commit what was not answered.
    fn rewind(&self) {
        let again = lock(&self.progress.tracker).rewinds();
        if again.is_empty() {
            return;
        }
        let positions: Vec<_> = again.iter().map(|(id, offset)| (*id, Position::At(*offset))).collect();
        let failed = self.consumer.seek(&self.tasks_topic, &positions, SEEK_WAIT).err().unwrap_or_default();
        if let Some((_, code)) = failed.first() {
            self.stuck.warn(*code, "going back failed and is tried again", "Kafka consumer of tasks");
        }
        let mut tracker = lock(&self.progress.tracker);
        for (partition, _) in again {
            if failed.iter().all(|(failed, _)| *failed != partition) {
                tracker.rewound(partition);
            }
        }
    }

    /// The end: what was taken is finished, within its bound.
    fn finish(&self) {
        if !self.replies.lanes.flush(DRAIN_WAIT) {
            tracing::warn!(tasks = lock(&self.progress.tracker).under_way(), "replies were not acknowledged in time");
        }
        self.settle();
        if self.membership == Membership::Group
            && let Err(code) = self.commit()
        {
            tracing::warn!(error = code_text(code), "the last commit failed: some tasks will be done again");
        }
    }

    /// A commit that a busy broker did not answer, or that met a rebalance, is tried again: it saves work done twice.
    fn commit(&self) -> Result<(), Code> {
        let committed = (1..COMMIT_TRIES_MAX).find_map(|_| self.consumer.commit().ok());
        committed.map_or_else(|| self.consumer.commit(), Ok)
    }
}

impl Progress {
    /// Applies the reports: returns `(partition, offset to go on from)`.
    fn settle(&self) -> Offsets {
        let (mut reports, mut next, mut again) = (Vec::new(), Vec::new(), Vec::new());
        self.reports.take(&mut reports);
        let mut tracker = lock(&self.tracker);
        for (ticket, fate) in reports {
            match fate {
                Fate::Acknowledged => tracker.done(ticket),
                Fate::Undeliverable => {
                    self.counts.undeliverable.inc();
                    tracker.done(ticket);
                }
                Fate::Lost => again.extend(tracker.lost(ticket)),
            }
        }
        tracker.take_progress(&mut next);
        if !again.is_empty() {
            self.counts.rewound.add(again.len() as u64);
            tracing::warn!(?again, "replies were lost: their tasks are read again");
        }
        next
    }
}

impl Events for Progress {
    fn error(&self, code: Code, reason: &str) {
        self.quiet.warn(code, reason, "Kafka consumer of tasks");
    }

    fn assigned(&self, partitions: usize) {
        tracing::info!(partitions, "tasks partitions were given");
    }

    /// What was answered shall not be done again by the next owner: wait for the acknowledgements, then commit.
    fn revoked(&self, member: &Revoked<'_>) {
        let acknowledged = self.lanes.flush(DRAIN_WAIT);
        let next = self.settle();
        let mut tracker = lock(&self.tracker);
        tracing::info!(acknowledged, lost = member.lost(), left = tracker.under_way(), "tasks partitions were taken");
        tracker.forget_all();
        if member.lost() {
            return;
        }
        if !next.is_empty()
            && let Err(code) = member.store(&self.tasks_topic, &next)
        {
            tracing::debug!(error = code_text(code), "offsets were not stored");
        }
        if let Err(code) = member.commit() {
            tracing::warn!(error = code_text(code), "the last commit failed: some tasks will be done again");
        }
    }
}

/// Tells the group, so that the others take over at once.
fn leave(consumer: &Consumer) {
    if let Err(code) = consumer.close() {
        tracing::warn!(error = code_text(code), "the worker left its group without an answer");
    }
}

fn lock(tracker: &Mutex<Tracker>) -> std::sync::MutexGuard<'_, Tracker> {
    tracker.lock().unwrap_or_else(PoisonError::into_inner)
}

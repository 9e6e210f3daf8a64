//! The producer of tasks: raw, by topic handle, with an explicit partition.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::counts::{ProduceErrors, Produced};
use super::health::{Health, State};
use super::lanes::{Lane, LaneTopic, Lanes, Meter, Moment};
use super::native::{Code, Events, Message, Record};
use super::wire::{Completion, Layout, Outcome, Task, Undelivered};
use crate::correlate::{CorrelationId, mailbox};

/// A shard stays with one partition for so many tasks, so that a burst of slow tasks does not land on one worker alone...
const STICKY_TASKS: u32 = 64;
/// ...or so many under load: it lasts, so the tasks must be quick, and large batches cost the broker least.
const STICKY_TASKS_BULK: u32 = 256;
/// How long a poll for reports sleeps when there are none.
const REPORT_WAIT: Duration = Duration::from_millis(100);

/// A shard's handle of the shared producer; clones share it.
#[derive(Clone)]
pub struct Submitter {
    pub(super) way: Arc<WayOut>,
    pub(super) sticky: Arc<Sticky>,
    pub(super) produced: Arc<Produced>,
}

/// What all shards share.
pub(super) struct WayOut {
    pub topic: LaneTopic,
    /// Not produced to: its handle makes the watcher's metadata request ask about it too.
    #[expect(dead_code, reason = "held for its effect on metadata requests")]
    pub results: LaneTopic,
    pub layout: Arc<Layout>,
    pub health: Arc<Health>,
    pub errors: Arc<ProduceErrors>,
}

impl Submitter {
    /// Whether a task could be submitted now: asked before a permit is taken.
    #[inline]
    pub fn check(&self) -> Result<(), Undelivered> {
        self.way.health.check()
    }

    /// Queues the task and returns. A later failure arrives in the shard's mailbox.
    pub fn submit(&self, task: &Task<'_>) -> Result<(), Undelivered> {
        let routes = self.way.health.routes();
        let turn = self.sticky.turn(task.deadline_unix_ms);
        let (Some(partition), Some(reply_partition)) =
            (choose(&routes.tasks, turn.number), choose(&routes.replies, turn.number))
        else {
            // No leader anywhere, or nothing known yet.
            return Err(self.check().err().unwrap_or(Undelivered::Unavailable));
        };
        let sent = self.way.layout.with_task(task, reply_partition, |payload, headers| {
            self.way.topic.produce(turn.lane, partition, &Record { payload, headers, opaque: 0 })
        });
        match sent {
            Ok(Ok(lane)) => {
                self.produced.count(lane);
                Ok(())
            }
            Ok(Err(code)) => {
                self.way.errors.count(code);
                Err(undelivered(code))
            }
            Err(not_an_object) => Err(not_an_object.into()),
        }
    }
}

/// Which partition is whose turn. All shards follow the same clock, so their tasks share batches without sharing
/// memory. The clock is the task's own deadline, which advances with the wall clock and costs no clock read. A shard
/// stays with one partition for a window of the meter, so that what is sent together travels in one batch, or for
/// [`STICKY_TASKS`].
#[derive(Debug)]
pub(super) struct Sticky(Meter);

/// Where a task goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    /// Equal for tasks that shall travel together.
    number: u64,
    lane: Lane,
}

impl Sticky {
    /// For one of so many shards.
    pub(super) fn of_one_in(shards: usize) -> Self {
        Self(Meter::of_one_in(shards))
    }

    fn turn(&self, deadline_unix_ms: u64) -> Turn {
        let Moment { window, earlier, lane } = self.0.count(deadline_unix_ms);
        let together = if lane == Lane::Bulk { STICKY_TASKS_BULK } else { STICKY_TASKS };
        // Multiplying by the golden ratio spreads windows, so that a client with a period does not meet one partition
        // again and again.
        let number = (window.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) + u64::from(earlier / together);
        Turn { number, lane }
    }
}

fn choose(partitions: &[i32], turn: u64) -> Option<i32> {
    let len = u64::try_from(partitions.len()).ok().filter(|len| *len > 0)?;
    partitions.get(usize::try_from(turn % len).ok()?).copied()
}

/// What a failure means to the client.
fn undelivered(code: Code) -> Undelivered {
    match code {
        Code::RD_KAFKA_RESP_ERR__QUEUE_FULL => Undelivered::QueueFull,
        Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE | Code::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE => {
            Undelivered::TooLarge
        }
        Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        | Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION
        | Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
        | Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION => Undelivered::TopicMissing,
        // Timed out, transport, all brokers down, purged, not enough replicas, not authorised: the broker did not
        // take it.
        _ => Undelivered::Unavailable,
    }
}

/// The producer's callbacks: they run on the delivery thread, inside `poll`.
pub(super) struct ProducerEvents {
    layout: Arc<Layout>,
    health: Arc<Health>,
    errors: Arc<ProduceErrors>,
    failed: Mutex<Vec<Failed>>,
    lost: AtomicBool,
}

/// A task that did not reach the broker.
struct Failed {
    id: CorrelationId,
    cause: Undelivered,
    partition: i32,
    bytes: usize,
}

impl ProducerEvents {
    pub fn new(layout: Arc<Layout>, health: Arc<Health>, errors: Arc<ProduceErrors>) -> Self {
        Self { layout, health, errors, failed: Mutex::default(), lost: AtomicBool::new(false) }
    }

    /// The watcher found no broker: what waits is given up as well.
    pub fn give_up(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

impl Events for ProducerEvents {
    fn report(&self, message: &Message<'_>) {
        let Some(code) = message.error() else { return };
        self.errors.count(code);
        let Some(id) = self.layout.task_id(message.headers(), message.payload()) else { return };
        let (cause, partition, bytes) = (undelivered(code), message.partition(), message.payload().len());
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(Failed { id, cause, partition, bytes });
    }

    fn error(&self, code: Code, reason: &str) {
        if code == Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN {
            self.health.set_producer(State::Down, reason);
            self.give_up();
        } else {
            tracing::debug!(code = super::native::code_name(code), reason, "Kafka producer");
        }
    }
}

/// The delivery thread: serves reports until `stop`, and once more after it.
pub(super) fn deliver(
    lanes: &Lanes,
    events: &ProducerEvents,
    shards: &[mailbox::Sender<Completion>],
    stop: &AtomicBool,
) {
    loop {
        let last = stop.load(Ordering::Relaxed);
        lanes.poll(if last { Duration::ZERO } else { REPORT_WAIT });
        if events.lost.swap(false, Ordering::Relaxed) {
            // Waiting requests get their 503 now instead of at message.timeout.ms.
            lanes.purge();
        }
        let mut failed = std::mem::take(&mut *events.failed.lock().unwrap_or_else(PoisonError::into_inner));
        if !failed.is_empty() {
            absolve(&mut failed);
            post_failures(failed, shards);
        }
        if last {
            return;
        }
    }
}

/// A broker refuses a whole batch as too large, and does not say because of which record. The largest is told so; the
/// others only travelled with it and may be sent again.
fn absolve(failed: &mut [Failed]) {
    let mut largest = BTreeMap::<i32, usize>::new();
    let refused = |task: &Failed| task.cause == Undelivered::TooLarge;
    for task in failed.iter().filter(|task| refused(task)) {
        let bytes = largest.entry(task.partition).or_default();
        *bytes = task.bytes.max(*bytes);
    }
    for task in failed.iter_mut().filter(|task| refused(task)) {
        if largest.get(&task.partition).is_some_and(|bytes| task.bytes < *bytes) {
            task.cause = Undelivered::Unavailable;
        }
    }
}

fn post_failures(failed: Vec<Failed>, shards: &[mailbox::Sender<Completion>]) {
    let mut batches: Vec<Vec<Completion>> = shards.iter().map(|_| Vec::new()).collect();
    for Failed { id, cause, .. } in failed {
        if let Some(batch) = batches.get_mut(usize::from(id.address().shard)) {
            batch.push(Completion { id, outcome: Outcome::Undelivered(cause) });
        }
    }
    for (batch, shard) in batches.into_iter().zip(shards).filter(|(batch, _)| !batch.is_empty()) {
        if shard.post(batch).is_err() {
            tracing::warn!("a shard's mailbox is full: undelivered tasks end at their deadline");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_a_moment_share_a_partition_and_a_burst_moves_on() {
        let (one, two) = (Sticky::of_one_in(2), Sticky::of_one_in(2));
        let first = one.turn(1_000);
        assert_eq!(first, one.turn(1_001));
        assert_eq!(first, two.turn(1_000), "shards agree without talking");
        let burst: Vec<_> = (0..STICKY_TASKS * 2).map(|_| one.turn(1_000)).collect();
        let moved = |by| Turn { number: first.number + by, ..first };
        assert!(burst.contains(&moved(1)) && burst.contains(&moved(2)), "{burst:?}");
    }

    #[test]
    fn of_a_batch_that_is_too_large_the_largest_is_told_so() {
        let id = CorrelationId::parse(b"6b1a2f00-0012-8c31-9d0e-0a4b6f2c9f11").unwrap();
        let failed = |cause, partition, bytes| Failed { id, cause, partition, bytes };
        let (large, timed_out) = (Undelivered::TooLarge, Undelivered::Unavailable);
        let mut list = [failed(large, 0, 10), failed(large, 0, 900), failed(large, 1, 20), failed(timed_out, 0, 999)];
        absolve(&mut list);
        assert_eq!(list.map(|task| task.cause), [Undelivered::Unavailable, large, large, timed_out]);
    }

    #[test]
    fn windows_reach_every_partition_even_at_a_period() {
        for period in [2, 4, 8, 16, 1_000] {
            let sticky = Sticky::of_one_in(1);
            let mut seen = [0; 4];
            for k in 0..400 {
                seen[usize::try_from(choose(&[0, 1, 2, 3], sticky.turn(k * period).number).unwrap()).unwrap()] += 1;
            }
            assert!(seen.iter().all(|count| *count >= 40), "period {period}: {seen:?}");
        }
        assert_eq!(choose(&[], 1), None);
    }
}

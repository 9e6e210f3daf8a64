//! What the Kafka part counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::health::Health;
use super::lanes::{Lane, Lanes};
use super::native::{Code, code_name};
use crate::observe::metrics::{Collect, Counter, Samples};

/// Numbers of the reader thread.
#[derive(Debug, Default)]
pub(super) struct ReplyCounts {
    /// Records read.
    pub received: Counter,
    /// For another instance.
    pub foreign: Counter,
    /// For us, and nonsense otherwise.
    pub malformed: Counter,
    /// Without a readable id.
    pub unreadable: Counter,
    /// For us, and the shard's mailbox was full or gone.
    pub dropped: Counter,
    /// Errors of the consumer that came in place of a record.
    pub errors: Counter,
    /// Calls that returned records: `received / rounds` is the mean batch.
    pub rounds: Counter,
}

/// Errors of the producer, by librdkafka's name of the code. Locked on failures only.
#[derive(Debug, Default)]
pub(super) struct ProduceErrors(Mutex<BTreeMap<&'static str, u64>>);

impl ProduceErrors {
    pub fn count(&self, code: Code) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(code_name(code)).or_default() += 1;
    }
}

/// Tasks of one shard.
#[derive(Debug, Default)]
pub(super) struct Produced {
    pub prompt: Counter,
    pub bulk: Counter,
}

impl Produced {
    pub fn count(&self, lane: Lane) {
        match lane {
            Lane::Prompt => self.prompt.inc(),
            Lane::Bulk => self.bulk.inc(),
        }
    }
}

/// Everything, for `/metrics`.
pub(super) struct KafkaCounts {
    /// One per shard.
    pub produced: Vec<Arc<Produced>>,
    pub errors: Arc<ProduceErrors>,
    pub replies: Arc<ReplyCounts>,
    pub health: Arc<Health>,
    pub lanes: Lanes,
}

impl Collect for KafkaCounts {
    fn collect(&self, samples: &mut Samples) {
        let help = "Tasks handed to the producer, by lane: at once, or with a wait for others under load.";
        for shard in &self.produced {
            samples.counter("thousandx_kafka_produced", help, &[("lane", "prompt")], shard.prompt.get());
            samples.counter("thousandx_kafka_produced", help, &[("lane", "bulk")], shard.bulk.get());
        }
        let help = "Tasks that did not reach the broker, by librdkafka's error code.";
        samples.announce("thousandx_kafka_produce_errors", help);
        for (code, count) in self.errors.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            samples.counter("thousandx_kafka_produce_errors", help, &[("code", code)], *count);
        }
        let depth = i64::try_from(self.lanes.queued()).unwrap_or(i64::MAX);
        samples.gauge("thousandx_kafka_queue_depth", "Tasks that wait for the broker's acknowledgement.", &[], depth);
        let up = i64::from(self.health.is_up());
        samples.gauge("thousandx_kafka_up", "1 while a broker answers.", &[], up);

        let replies = &self.replies;
        let results = [
            ("foreign", &replies.foreign),
            ("malformed", &replies.malformed),
            ("unreadable", &replies.unreadable),
            ("dropped", &replies.dropped),
            ("error", &replies.errors),
        ];
        for (result, counter) in results {
            let help = "Replies by what became of them.";
            samples.counter("thousandx_replies", help, &[("result", result)], counter.get());
        }
        samples.counter("thousandx_reply_records", "Records read from the results topic.", &[], replies.received.get());
        let help = "Reads that returned records; thousandx_reply_records over this is the mean batch.";
        samples.counter("thousandx_reply_rounds", help, &[], replies.rounds.get());
    }
}

//! The watcher: one thread that asks for metadata, so that a lost broker, a missing topic or a new partition is known
//! within a second. It alone assigns reply partitions and declares the parts ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::health::{Health, Routes, State};
use super::native::{Code, Consumer, Position, Producer, TopicMetadata, code_text};
use super::submit::ProducerEvents;
use crate::config::ReplyRouting;

/// Between two looks. A look costs two small requests.
const INTERVAL: Duration = Duration::from_millis(500);
/// For how long a broker may take to answer: with the interval, a hung broker is known in 1.5 s.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// A partition that is added to a topic is used after so long: then every worker has heard of it. Java's
/// `metadata.max.age.ms` and librdkafka's `topic.metadata.refresh.interval.ms` are five minutes, and the watchers of a
/// cluster do not look at the same moment. A worker would not read such a task, or fail to send such a reply.
const HEARD_WITHIN: Duration = Duration::from_secs(5 * 60 + 10);

/// What the watcher looks at.
pub(super) struct Watcher {
    pub producer: Producer,
    pub producer_events: Arc<ProducerEvents>,
    pub consumer: Arc<Consumer>,
    pub health: Arc<Health>,
    pub tasks_topic: String,
    pub results_topic: String,
    pub routing: ReplyRouting,
    /// Set by the reader's error callback; cleared by a successful look.
    pub reader_lost: Arc<AtomicBool>,
    /// Partitions whose position is fixed.
    pub assigned: BTreeSet<i32>,
    /// Whether every partition had its position once: later ones are new and read from their beginning.
    pub complete_once: bool,
    /// Of the tasks topic.
    pub tasks_known: Known,
    /// Of the results topic.
    pub results_known: Known,
}

/// The partitions of a topic, and from when on each may be used.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<i32, Instant>);

/// What one look at the topics says.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    routes: Routes,
    /// Names of topics, or partitions, that are not there.
    missing: Option<String>,
}

impl Watcher {
    /// Looks, waits, looks again, until `stop` has no sender any more.
    pub fn run(mut self, stop: &Receiver<std::convert::Infallible>) {
        loop {
            self.look();
            if stop.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn look(&mut self) {
        let topics = match self.producer.metadata(ANSWER_WAIT) {
            Ok(topics) => topics,
            Err(code) => return self.lost(code),
        };
        let mut found = judge(&topics, &self.tasks_topic, &self.results_topic, &self.routing);
        let wanted = found.routes.replies.clone();
        self.leave_out_added(&topics, &mut found.routes);
        let leaderless = found.routes.tasks.is_empty();
        if self.health.set_routes(found.routes) {
            let routes = self.health.routes();
            tracing::info!(tasks = ?routes.tasks, replies = ?routes.replies, "Kafka partitions");
        }
        match &found.missing {
            Some(missing) => self.health.set_producer(State::TopicMissing, missing),
            None if leaderless => self.health.set_producer(State::Down, "no partition of the tasks topic has a leader"),
            None => self.health.set_producer(State::Up, ""),
        }
        self.look_at_replies(&wanted, found.missing.as_deref());
    }

    /// Takes what was added lately out of the routes. Replies are read from it all the same, and partitions that the
    /// settings name are used as soon as they are there.
    fn leave_out_added(&mut self, topics: &[TopicMetadata], routes: &mut Routes) {
        let now = Instant::now();
        self.tasks_known.note(topics, &self.tasks_topic, now);
        self.results_known.note(topics, &self.results_topic, now);
        routes.tasks.retain(|partition| self.tasks_known.is_usable(*partition, now));
        if self.routing == ReplyRouting::Shared {
            routes.replies.retain(|partition| self.results_known.is_usable(*partition, now));
        }
    }

    /// No answer: refuse new tasks. When there is no connection at all, those that wait are given up too; when there
    /// is one that is merely slow, they may still be delivered in time.
    fn lost(&self, code: Code) {
        self.health.set_producer(State::Down, code_text(code));
        self.health.set_replies(false, code_text(code));
        if code == Code::RD_KAFKA_RESP_ERR__TRANSPORT {
            self.producer_events.give_up();
        }
    }

    fn look_at_replies(&mut self, wanted: &[i32], missing: Option<&str>) {
        if let Some(missing) = missing {
            self.forget_gone(wanted);
            return self.health.set_replies(false, missing);
        }
        if let Err((what, code)) = self.assign(wanted) {
            tracing::debug!(what, error = code_text(code), "reply partitions");
            return self.health.set_replies(false, code_text(code));
        }
        if self.reader_lost.swap(false, Ordering::Relaxed)
            && let Err(code) = self.consumer.metadata(ANSWER_WAIT)
        {
            self.reader_lost.store(true, Ordering::Relaxed);
            return self.health.set_replies(false, code_text(code));
        }
        self.complete_once = true;
        self.health.set_replies(true, "");
    }

    /// A partition that is not there any more has no position: when its topic is made again, its offsets begin anew,
    /// and a reader that goes on at the old one would miss the first replies.
    fn forget_gone(&mut self, there: &[i32]) {
        let gone: Vec<i32> = self.assigned.iter().copied().filter(|partition| !there.contains(partition)).collect();
        if gone.is_empty() {
            return;
        }
        match self.consumer.unassign(&self.results_topic, &gone) {
            Ok(()) => self.assigned.retain(|partition| there.contains(partition)),
            Err(code) => tracing::warn!(error = code_text(code), ?gone, "lost reply partitions are still assigned"),
        }
    }

    /// Gives every wanted partition that has none a position as an absolute number: "latest" would be looked up some
    /// time after the first task was sent, and skip its reply.
    fn assign(&mut self, wanted: &[i32]) -> Result<(), (&'static str, Code)> {
        for partition in wanted {
            if self.assigned.contains(partition) {
                continue;
            }
            // A partition that was added later may hold replies from before we saw it.
            let position = if self.complete_once {
                tracing::info!(partition, "a reply partition was added");
                Position::Beginning
            } else {
                let marks = self.consumer.watermarks(&self.results_topic, *partition, ANSWER_WAIT);
                Position::At(marks.map_err(|code| ("watermarks", code))?.1)
            };
            self.consumer
                .assign_also(&self.results_topic, &[(*partition, position)])
                .map_err(|code| ("assign", code))?;
            self.assigned.insert(*partition);
        }
        Ok(())
    }
}

impl Known {
    /// Takes over what is there now. A topic that was not there is new to everybody: all of it may be used at once.
    fn note(&mut self, topics: &[TopicMetadata], name: &str, now: Instant) {
        let topic = topics.iter().find(|topic| topic.name == name);
        let there: Vec<i32> = topic.into_iter().flat_map(|topic| &topic.partitions).map(|(id, _)| *id).collect();
        let usable_from = if self.0.is_empty() { now } else { now + HEARD_WITHIN };
        self.0.retain(|id, _| there.contains(id));
        for id in there {
            self.0.entry(id).or_insert(usable_from);
        }
    }

    fn is_usable(&self, partition: i32, now: Instant) -> bool {
        self.0.get(&partition).is_some_and(|from| *from <= now)
    }
}

fn judge(topics: &[TopicMetadata], tasks: &str, results: &str, routing: &ReplyRouting) -> Found {
    let find = |name: &str| topics.iter().find(|topic| topic.name == name && topic.error.is_none());
    let mut missing = Vec::new();
    let mut routes = Routes::default();
    match find(tasks).filter(|topic| !topic.partitions.is_empty()) {
        Some(topic) => {
            routes.tasks = topic.partitions.iter().filter(|(_, leader)| *leader).map(|(id, _)| *id).collect();
        }
        None => missing.push(tasks.to_owned()),
    }
    match find(results).filter(|topic| !topic.partitions.is_empty()) {
        None => missing.push(results.to_owned()),
        Some(topic) => {
            let there: Vec<i32> = topic.partitions.iter().map(|(id, _)| *id).collect();
            routes.replies = match routing {
                ReplyRouting::Shared => there,
                ReplyRouting::Partitions(own) => {
                    let gone = own.iter().filter(|id| !there.contains(id));
                    missing.extend(gone.map(|id| format!("{results}[{id}]")));
                    own.iter().copied().filter(|id| there.contains(id)).collect()
                }
            };
        }
    }
    let missing = (!missing.is_empty()).then(|| missing.join(", "));
    Found { routes, missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, leaders: &[bool]) -> TopicMetadata {
        TopicMetadata { name: name.into(), error: None, partitions: (0..).zip(leaders.iter().copied()).collect() }
    }

    #[test]
    fn tasks_go_to_leaders_and_replies_to_every_partition() {
        let topics = [topic("tasks", &[true, false, true]), topic("results", &[true, false])];
        let found = judge(&topics, "tasks", "results", &ReplyRouting::Shared);
        assert_eq!(found, Found { routes: Routes { tasks: vec![0, 2], replies: vec![0, 1] }, missing: None });
    }

    #[test]
    fn added_partitions_are_used_when_everybody_has_heard_of_them() {
        let (mut known, start) = (Known::default(), Instant::now());
        let usable = |known: &Known, now| (0..4).filter(|id| known.is_usable(*id, now)).collect::<Vec<_>>();
        known.note(&[topic("tasks", &[true, false])], "tasks", start);
        assert_eq!(usable(&known, start), [0, 1], "what is there at first, leader or not");
        known.note(&[topic("tasks", &[true; 4])], "tasks", start);
        assert_eq!(usable(&known, start), [0, 1]);
        let later = start + HEARD_WITHIN;
        known.note(&[topic("tasks", &[true; 4])], "tasks", later);
        assert_eq!(usable(&known, later), [0, 1, 2, 3]);
        known.note(&[], "tasks", later);
        assert!(usable(&known, later).is_empty());
        known.note(&[topic("tasks", &[true; 3])], "tasks", later);
        assert_eq!(usable(&known, later), [0, 1, 2], "made again: at once");
    }

    #[test]
    fn own_partitions_must_exist() {
        let topics = [topic("tasks", &[true]), topic("results", &[true, true])];
        let found = judge(&topics, "tasks", "results", &ReplyRouting::Partitions(vec![1, 2]));
        assert_eq!(found.routes.replies, [1]);
        assert_eq!(found.missing.as_deref(), Some("results[2]"));
    }

    #[test]
    fn missing_topics_are_named() {
        let broken =
            TopicMetadata { error: Some(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), ..topic("tasks", &[]) };
        let found = judge(&[broken], "tasks", "results", &ReplyRouting::Shared);
        assert_eq!(found.missing.as_deref(), Some("tasks, results"));
    }
}

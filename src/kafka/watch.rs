//! The watcher: one thread that asks for metadata, so that a lost broker, a missing topic or a new partition is known
//! within a second. It alone assigns reply partitions and declares the parts ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::health::{Health, Routes, State};
use super::lanes::Lanes;
use super::native::{Code, Consumer, Position, TopicMetadata, code_text};
use super::submit::ProducerEvents;
use crate::config::ReplyRouting;

/// Between two looks. A look costs two or three small requests.
const INTERVAL: Duration = Duration::from_millis(500);
/// For how long a broker may take to answer: with the interval, a hung broker is known in 1.5 s. One that falls silent in
/// the middle of a look is known after the next: two more questions may wait as long first.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// The reader is asked for its broker in every so many looks, 5 s: it may have lost it without an error.
const READER_ASKED_EVERY: u32 = 10;
/// At the start, for how long partitions for replies that have no leader are waited for: a broker that starts gives them
/// one after the other. After that the others do without them.
const LEADERS_WAIT: Duration = Duration::from_secs(3);

/// What the watcher looks at.
pub(super) struct Watcher {
    pub lanes: Lanes,
    pub producer_events: Arc<ProducerEvents>,
    pub consumer: Arc<Consumer>,
    pub health: Arc<Health>,
    pub tasks_topic: String,
    pub results_topic: String,
    pub routing: ReplyRouting,
    /// Set by the reader's error callback; cleared by a successful look.
    pub reader_lost: Arc<AtomicBool>,
    /// Until the reader is asked for its broker.
    pub looks_left: u32,
    /// Partitions whose position is fixed.
    pub assigned: BTreeSet<i32>,
    /// Whether every partition with a leader had its position once: later ones are new and read from their beginning...
    pub complete_once: bool,
    /// ...except these, which were there already, without a leader.
    pub left_over: BTreeSet<i32>,
    /// When [`LEADERS_WAIT`] ends; set when a leader is missing for the first time.
    pub leaders_until: Option<Instant>,
    /// How long after its appearance a partition is used: until then a worker would not read its tasks, or fail to
    /// send a reply to it.
    pub new_partition_wait: Duration,
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
    /// Partitions of the results topic that have no leader now.
    leaderless: BTreeSet<i32>,
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

    /// The way back first: once the routes are there and the state is up, tasks go out, and their replies must be read.
    fn look(&mut self) {
        let topics = match self.lanes.metadata(ANSWER_WAIT) {
            Ok(topics) => topics,
            Err(code) => return self.lost(code),
        };
        let mut found = judge(&topics, &self.tasks_topic, &self.results_topic, &self.routing);
        let unread = self.look_at_replies(&found).err();
        self.leave_out_unready(&topics, &mut found);
        let (no_leader, no_reply) = (found.routes.tasks.is_empty(), found.routes.replies.is_empty());
        if self.health.set_routes(found.routes) {
            let routes = self.health.routes();
            tracing::info!(tasks = ?routes.tasks, replies = ?routes.replies, "Kafka partitions");
        }
        match &unread {
            Some(why) => self.health.set_replies(false, why),
            None if no_reply => self.health.set_replies(false, "no partition for replies has a leader and a position"),
            None => self.health.set_replies(true, ""),
        }
        match &found.missing {
            Some(missing) => self.health.set_producer(State::TopicMissing, missing),
            None if no_leader => self.health.set_producer(State::Down, "no partition of the tasks topic has a leader"),
            None => self.health.set_producer(State::Up, ""),
        }
    }

    /// Takes out of the routes what was added lately, and where a reply could not be read or sent. Replies are read from
    /// added partitions all the same, and partitions that the settings name are used as soon as they are there.
    fn leave_out_unready(&mut self, topics: &[TopicMetadata], found: &mut Found) {
        let now = Instant::now();
        let usable_from = now + self.new_partition_wait;
        self.tasks_known.note(topics, &self.tasks_topic, now, usable_from);
        self.results_known.note(topics, &self.results_topic, now, usable_from);
        found.keep_readable(&self.assigned);
        found.routes.tasks.retain(|partition| self.tasks_known.is_usable(*partition, now));
        if self.routing == ReplyRouting::Shared {
            found.routes.replies.retain(|partition| self.results_known.is_usable(*partition, now));
        }
    }

    /// No answer: refuse new tasks. When there is no connection at all, those that wait are given up too; when there
    /// is one that is merely slow, they may still be delivered in time.
    fn lost(&self, code: Code) {
        self.health.set_producer(State::Down, code_text(code));
        self.health.set_replies(false, code_text(code));
        // The reader's own connection may be lost without its having noticed yet.
        self.reader_lost.store(true, Ordering::Relaxed);
        if code == Code::RD_KAFKA_RESP_ERR__TRANSPORT {
            self.producer_events.give_up();
        }
    }

    /// Whether replies can be read, or why not.
    fn look_at_replies(&mut self, found: &Found) -> Result<(), String> {
        if let Some(missing) = &found.missing {
            self.forget_gone(&found.routes.replies);
            return Err(missing.clone());
        }
        if let Err((what, code)) = self.assign(found) {
            tracing::debug!(what, error = code_text(code), "reply partitions");
            if !self.complete_once {
                return Err(code_text(code).to_owned());
            }
        }
        self.ask_reader().map_err(|code| code_text(code).to_owned())
    }

    /// Whether the reader has a broker, when that is in doubt.
    fn ask_reader(&mut self) -> Result<(), Code> {
        let is_lost = self.reader_lost.swap(false, Ordering::Relaxed);
        self.looks_left = self.looks_left.saturating_sub(1);
        if !is_lost && self.looks_left > 0 {
            return Ok(());
        }
        self.looks_left = READER_ASKED_EVERY;
        match self.consumer.metadata(ANSWER_WAIT) {
            Ok(_) => Ok(()),
            // The question waits behind a fetch, which may take longer (`KAFKA_FETCH_WAIT_MS`) and is no loss.
            Err(Code::RD_KAFKA_RESP_ERR__TIMED_OUT) if !is_lost => Ok(()),
            Err(code) => {
                self.reader_lost.store(true, Ordering::Relaxed);
                Err(code)
            }
        }
    }

    /// A partition that is not there any more has no position: when its topic is made again, its offsets begin anew,
    /// and a reader that goes on at the old one would miss the first replies.
    fn forget_gone(&mut self, there: &[i32]) {
        self.left_over.retain(|partition| there.contains(partition));
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
    fn assign(&mut self, found: &Found) -> Result<(), (&'static str, Code)> {
        // All are asked for first: once some are assigned, each question waits behind a fetch on the same connection.
        let positions = self.positions(found).map_err(|code| ("watermarks", code))?;
        if !positions.is_empty() {
            self.consumer.assign_also(&self.results_topic, &positions).map_err(|code| ("assign", code))?;
        }
        for (partition, _) in positions {
            self.assigned.insert(partition);
            self.left_over.remove(&partition);
        }
        if !self.complete_once && !self.left_over.is_empty() {
            let now = Instant::now();
            if now < *self.leaders_until.get_or_insert(now + LEADERS_WAIT) {
                return Err(("leaders", Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE));
            }
        }
        self.complete_once = true;
        Ok(())
    }

    /// Positions for those that have none. At the start all or nothing; later a partition whose position cannot be learnt
    /// waits for the next look, and the others go on.
    ///
    /// A partition that was added later may hold replies from before we saw it, and is read from its beginning. One that
    /// had no leader when the others got their positions may be long: it goes on from its end, once it has a leader.
    fn positions(&mut self, found: &Found) -> Result<Vec<(i32, Position)>, Code> {
        let mut positions = Vec::new();
        for partition in found.routes.replies.iter().copied() {
            if self.assigned.contains(&partition) {
                continue;
            }
            if self.complete_once && !self.left_over.contains(&partition) {
                tracing::info!(partition, "a reply partition was added");
                positions.push((partition, Position::Beginning));
            } else if found.leaderless.contains(&partition) {
                self.left_over.insert(partition);
            } else {
                match self.consumer.watermarks(&self.results_topic, partition, ANSWER_WAIT) {
                    Ok((_, next)) => positions.push((partition, Position::At(next))),
                    Err(code) if self.complete_once => {
                        tracing::debug!(partition, error = code_text(code), "no position for a reply partition");
                    }
                    Err(code) => return Err(code),
                }
            }
        }
        Ok(positions)
    }
}

impl Found {
    /// A reply is asked for only where it is read, and where a worker can send it.
    fn keep_readable(&mut self, assigned: &BTreeSet<i32>) {
        let Self { routes, leaderless, .. } = self;
        routes.replies.retain(|partition| assigned.contains(partition) && !leaderless.contains(partition));
    }
}

impl Known {
    /// Takes over what is there now. A topic that was not there is new to everybody: all of it may be used at once.
    fn note(&mut self, topics: &[TopicMetadata], name: &str, now: Instant, added_usable_from: Instant) {
        let topic = topics.iter().find(|topic| topic.name == name);
        let there: Vec<i32> = topic.into_iter().flat_map(|topic| &topic.partitions).map(|(id, _)| *id).collect();
        let usable_from = if self.0.is_empty() { now } else { added_usable_from };
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
    let mut leaderless = BTreeSet::new();
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
            leaderless = topic.partitions.iter().filter(|(_, leader)| !leader).map(|(id, _)| *id).collect();
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
    Found { routes, leaderless, missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, leaders: &[bool]) -> TopicMetadata {
        TopicMetadata { name: name.into(), error: None, partitions: (0..).zip(leaders.iter().copied()).collect() }
    }

    #[test]
    fn tasks_go_to_leaders_and_replies_are_wanted_from_every_partition() {
        let topics = [topic("tasks", &[true, false, true]), topic("results", &[true, false])];
        let found = judge(&topics, "tasks", "results", &ReplyRouting::Shared);
        let routes = Routes { tasks: vec![0, 2], replies: vec![0, 1] };
        assert_eq!(found, Found { routes, leaderless: [1].into(), missing: None });
    }

    #[test]
    fn replies_are_asked_for_where_they_are_read_and_can_be_sent() {
        let topics = [topic("tasks", &[true]), topic("results", &[true, true, false, true])];
        for routing in [ReplyRouting::Shared, ReplyRouting::Partitions(vec![0, 1, 2])] {
            let mut found = judge(&topics, "tasks", "results", &routing);
            found.keep_readable(&[1, 2].into());
            assert_eq!(found.routes.replies, [1], "0 and 3 have no position, 2 has no leader");
        }
    }

    #[test]
    fn added_partitions_are_used_when_everybody_has_heard_of_them() {
        const WAIT: Duration = Duration::from_mins(5);
        let (mut known, start) = (Known::default(), Instant::now());
        let usable = |known: &Known, now| (0..4).filter(|id| known.is_usable(*id, now)).collect::<Vec<_>>();
        known.note(&[topic("tasks", &[true, false])], "tasks", start, start + WAIT);
        assert_eq!(usable(&known, start), [0, 1], "what is there at first, leader or not");
        known.note(&[topic("tasks", &[true; 4])], "tasks", start, start + WAIT);
        assert_eq!(usable(&known, start), [0, 1]);
        let later = start + WAIT;
        known.note(&[topic("tasks", &[true; 4])], "tasks", later, later + WAIT);
        assert_eq!(usable(&known, later), [0, 1, 2, 3]);
        known.note(&[], "tasks", later, later + WAIT);
        assert!(usable(&known, later).is_empty());
        known.note(&[topic("tasks", &[true; 3])], "tasks", later, later + WAIT);
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

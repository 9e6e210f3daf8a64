//! A worker that checks: it reads the tasks topic, holds each task as long as the test says, answers well or badly as the
//! test says, and counts how many tasks it holds unanswered at once. That count is the in-flight limit as seen from the
//! other end (promise P3): it does not depend on anything that the server says about itself.
//!
//! A task counts from its arrival until its reply is handed to the producer or its deadline has passed, whichever is
//! first. Both are moments at which the server has not given the permit back yet, so that a sound server is never over
//! its capacity here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::kafka::Kafka;

mod engine;

/// Tasks whose history is kept; the counts go on beyond.
const HISTORY_MAX: usize = 200_000;

/// What to do with one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Answer with the task's own body after this long.
    Answer(Duration),
    /// No answer.
    Never,
    /// Two equal answers, one right after the other.
    Twice(Duration),
    /// The answer comes so long after the task's deadline.
    Late(Duration),
    /// The right id, and a value that is neither JSON nor UTF-8.
    Garbage,
    /// A correct answer under an id that nobody waits for: these bytes.
    WrongId(Vec<u8>),
    /// `x-error` with this code.
    Error(String),
    /// A JSON string of this many bytes.
    Huge(usize),
    /// This value and these further headers, under the right id.
    Custom(Vec<u8>, Vec<(&'static str, Vec<u8>)>),
}

/// A task as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The correlation header.
    pub id: Vec<u8>,
    /// The value.
    pub body: Vec<u8>,
    /// All headers by name.
    pub headers: BTreeMap<String, Vec<u8>>,
    /// The partition it was on.
    pub partition: i32,
    /// When it arrived.
    pub at: Instant,
}

/// What a checker has counted.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Tasks that arrived.
    pub tasks: u64,
    /// Replies handed to the producer.
    pub replies: u64,
    /// Tasks held unanswered now.
    pub in_flight: usize,
    /// The most held unanswered at once.
    pub in_flight_max: usize,
    /// Tasks without a correlation header.
    pub without_id: u64,
}

/// Where the checker reads.
#[derive(Debug, Clone)]
pub enum Join {
    /// All partitions from their beginning: nothing sent before is missed.
    Assign,
    /// As a member of this group, from the oldest uncommitted task.
    Group(String),
}

/// A running checker; ends when dropped.
pub struct Checker {
    stop: Arc<AtomicBool>,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread writes and the test reads.
#[derive(Default)]
struct Shared {
    counts: Counts,
    history: Vec<Seen>,
}

/// The test's decision about a task.
type Choose = Box<dyn FnMut(&Seen) -> Behaviour + Send>;

impl Checker {
    /// Starts one that reads all partitions of `tasks` and treats each task as `choose` says.
    pub fn start(kafka: &Kafka, tasks: &str, choose: impl FnMut(&Seen) -> Behaviour + Send + 'static) -> Self {
        Self::start_as(kafka, tasks, &Join::Assign, choose)
    }

    /// The same, with the way of reading given.
    pub fn start_as(
        kafka: &Kafka,
        tasks: &str,
        join: &Join,
        choose: impl FnMut(&Seen) -> Behaviour + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Mutex::new(Shared::default()));
        let mut engine = engine::Engine::new(kafka, tasks, join, Box::new(choose), Arc::clone(&shared));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || engine.run(&stopped));
        Self { stop, shared, thread: Some(thread) }
    }

    /// What it has counted so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// The tasks in the order of their arrival (the first ones, up to a bound).
    pub fn history(&self) -> Vec<Seen> {
        self.lock().history.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of the thread was a failed assertion: it must not pass unseen, nor turn a failing test into an abort.
        let ended = self.thread.take().is_some_and(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the checker's thread panicked, see above");
    }
}

//! What is broken, when, and for how long: a pure function of a seed and a length.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Servers that share the broker and the limit.
pub const SERVERS: usize = 3;
/// Worker processes.
pub const WORKERS: usize = 2;
/// Load without a fault at the start.
const FIRST: Duration = Duration::from_secs(5);
/// And at the end, in which everything has to heal: 10 s are promised.
pub const QUIET: Duration = Duration::from_secs(15);
/// A restart of Kafka on a busy machine takes so long on top of the plan; others are quicker.
const RESTART: Duration = Duration::from_secs(4);
/// Between the end of a fault and the next one, ms. Less than a lease and less than a worker's session: the next fault
/// often meets a system that has not healed yet.
const PAUSE_MS: std::ops::Range<u64> = 0..8_000;

/// A fault of the matrix. Numbers name a place in the cluster, not the process that is there at the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and an empty Redis after a while.
    RedisKill,
    /// SIGSTOP, and SIGCONT after a while.
    RedisStop,
    /// `CLIENT PAUSE`: it answers all at the end of it.
    RedisPause,
    /// It forgets the limiter's script.
    RedisScriptFlush,
    /// It forgets the permits.
    RedisFlushAll,
    /// SIGSTOP, and SIGCONT after a while.
    KafkaStop,
    /// SIGKILL, and a restart with its data after a while.
    KafkaKill,
    /// SIGTERM: it drains, and a new one takes its place.
    ServerTerm(usize),
    /// SIGKILL, and a new one after a while.
    ServerKill(usize),
    /// SIGKILL, and a new one after a while.
    WorkerKill(usize),
    /// SIGSTOP, and SIGCONT after a while: within its session, or beyond.
    WorkerStop(usize),
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Since the start of the load, if everything before took as long as planned.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// How long until it is undone.
    pub lasts: Duration,
}

/// All faults of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// Of the load, faults and quiet end together.
    pub length: Duration,
    /// In order; one fault at a time.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of this seed. Every kind of fault comes once before any comes again.
    pub fn new(seed: u64, length: Duration) -> Self {
        // The same sequence on every machine, for one version of rand, which the lock file fixes.
        let mut random = StdRng::seed_from_u64(seed);
        let (mut steps, mut deck) = (Vec::new(), Vec::new());
        let mut at = FIRST;
        loop {
            if deck.is_empty() {
                deck = kinds(&mut random);
                deck.shuffle(&mut random);
            }
            let Some(fault) = deck.pop() else { break };
            let lasts = Duration::from_millis(random.random_range(lasts_ms(fault)));
            let end = at + lasts + RESTART;
            if end + QUIET > length {
                break;
            }
            steps.push(Step { at, fault, lasts });
            at = end + Duration::from_millis(random.random_range(PAUSE_MS));
        }
        Self { seed, length, steps }
    }
}

/// One of each kind; where it strikes is chosen at random.
fn kinds(random: &mut StdRng) -> Vec<Fault> {
    vec![
        Fault::RedisKill,
        Fault::RedisStop,
        Fault::RedisPause,
        Fault::RedisScriptFlush,
        Fault::RedisFlushAll,
        Fault::KafkaStop,
        Fault::KafkaKill,
        Fault::ServerTerm(random.random_range(0..SERVERS)),
        Fault::ServerKill(random.random_range(0..SERVERS)),
        Fault::WorkerKill(random.random_range(0..WORKERS)),
        Fault::WorkerStop(random.random_range(0..WORKERS)),
    ]
}

/// How long each may last. A stop of Redis stays below two thirds of the lease (9 s), in which every permit has been
/// renewed: more would be another promise (P10). A worker's session is 6 s.
fn lasts_ms(fault: Fault) -> std::ops::Range<u64> {
    match fault {
        Fault::RedisKill | Fault::KafkaKill => 200..3_000,
        Fault::RedisStop => 200..4_000,
        Fault::RedisPause => 100..2_000,
        Fault::RedisScriptFlush | Fault::RedisFlushAll => 0..1,
        Fault::KafkaStop => 500..5_000,
        Fault::ServerTerm(_) | Fault::ServerKill(_) | Fault::WorkerKill(_) => 0..2_000,
        Fault::WorkerStop(_) => 500..9_000,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.length.as_secs_f64();
        writeln!(f, "plan of seed {}: {} faults in {seconds} s", self.seed, self.steps.len())?;
        for step in &self.steps {
            writeln!(f, "  {:7.3} s  {} for {:.3} s", step.at.as_secs_f64(), step.fault, step.lasts.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RedisKill => write!(f, "kill Redis"),
            Self::RedisStop => write!(f, "stop Redis"),
            Self::RedisPause => write!(f, "CLIENT PAUSE"),
            Self::RedisScriptFlush => write!(f, "SCRIPT FLUSH"),
            Self::RedisFlushAll => write!(f, "FLUSHALL"),
            Self::KafkaStop => write!(f, "stop Kafka"),
            Self::KafkaKill => write!(f, "kill Kafka"),
            Self::ServerTerm(place) => write!(f, "SIGTERM to server {place}"),
            Self::ServerKill(place) => write!(f, "kill server {place}"),
            Self::WorkerKill(place) => write!(f, "kill worker {place}"),
            Self::WorkerStop(place) => write!(f, "stop worker {place}"),
        }
    }
}

//! A server with a Redis and topics of its own, the worker that checks, and what every row asks of them.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::checker::{Behaviour, Checker, Seen};
use crate::support::http::{NoResponse, Response};
use crate::support::kafka::Kafka;
use crate::support::load::{Load, Running};
use crate::support::redis::RedisServer;
use crate::support::rows::Row;
use crate::support::server::{Builder, Server};
use crate::support::wait_until;
use crate::{REFUSED_WITHIN, WAIT_MAX, timed};

/// The key of the permits.
pub const SET: &str = "in_flight";
/// The reply deadline of the servers here, and as the setting has it.
pub const DEADLINE: Duration = Duration::from_secs(4);
const DEADLINE_S: &str = "4";
/// What a permit lives beyond its deadline.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// A permit that nobody gave back is gone after this.
pub const LEASE: Duration = Duration::from_secs(DEADLINE.as_secs() + LEASE_MARGIN.as_secs());
/// An answer comes at most so long after the deadline (promise P1).
pub const ANSWER_MAX: Duration = Duration::from_secs(DEADLINE.as_secs() + 1);
/// Permits are given back with the answer: far less than a lease.
const RELEASED_WITHIN: Duration = Duration::from_secs(3);
/// A server without requests ends within this, whatever is away: a second for the last tasks, one for the last permits.
const END_WITHIN: Duration = Duration::from_secs(4);
/// A refusal that waits for nothing.
const AT_ONCE: Duration = Duration::from_millis(300);
/// How long a task of the load is worked on: some are in flight at every moment.
const WORK: Duration = Duration::from_millis(20);
/// Connections of the load: each shard has some.
const CONNECTIONS: usize = 8;

/// A server and a Redis; topics of its own on a broker that belongs to the test.
pub struct Stack {
    pub redis: RedisServer,
    pub tasks: String,
    pub results: String,
    pub server: Server,
}

/// A request that waits on a thread of its own.
pub type Waiting = JoinHandle<(Result<Response, NoResponse>, Duration)>;

impl Stack {
    /// Everything there, the server ready.
    pub fn start(kafka: &Kafka) -> Self {
        Self::start_with(kafka, |builder| builder)
    }

    /// The same with other settings.
    pub fn start_with(kafka: &Kafka, adjust: impl FnOnce(Builder) -> Builder) -> Self {
        let redis = RedisServer::start_secured();
        let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
        let server = adjust(settings(kafka, &tasks, &results, &redis.url())).start();
        Self { redis, tasks, results, server }
    }

    /// Posts until a request is refused with 503 and this code; the server may still take some before. Each answer has
    /// to come by the deadline, and the refusal itself within [`REFUSED_WITHIN`]. Returns how long it took until then.
    pub fn until_refused(&self, code: &str, limit: Duration) -> Duration {
        let start = Instant::now();
        let refused = wait_until(limit, || {
            let (answer, took) = self.post();
            (self.is_refusal(&answer, code)).then_some(took)
        });
        let took = refused.unwrap_or_else(|| panic!("no 503 {code} within {limit:?}; log:\n{}", self.server.log()));
        assert!(took < REFUSED_WITHIN, "the refusal took {took:?}");
        start.elapsed()
    }

    /// `count` requests one after the other, all refused with this code, each within `limit` and half of them at once.
    /// Returns the slowest.
    pub fn all_refused(&self, code: &str, count: u32, limit: Duration) -> Duration {
        let mut times = Vec::new();
        for _ in 0..count {
            let (answer, took) = self.post();
            assert!(self.is_refusal(&answer, code), "{answer:?} instead of 503 {code}; log:\n{}", self.server.log());
            assert!(took < limit, "a refusal took {took:?}");
            times.push(took);
        }
        times.sort_unstable();
        assert!(times[times.len() / 2] < AT_ONCE, "{times:?}");
        times.last().copied().unwrap_or_default()
    }

    /// Posts until the first 200, at most for `limit` since `fault_end`. Returns how long after `fault_end` it came.
    pub fn until_served(&self, fault_end: Instant, limit: Duration) -> Duration {
        let served =
            wait_until(limit, || self.post().0.is_ok_and(|answer| answer.status == 200).then(|| fault_end.elapsed()));
        let took = served.unwrap_or_else(|| {
            let ready = self.server.get("/readyz?verbose").map(|answer| answer.text());
            panic!("no 200 within {limit:?}; /readyz?verbose: {ready:?}; log:\n{}", self.server.log())
        });
        assert!(took < limit, "served only after {took:?}; log:\n{}", self.server.log());
        took
    }

    /// `/readyz` is 200 at most `limit` after `fault_end`; returns when.
    pub fn until_ready(&mut self, fault_end: Instant, limit: Duration) -> Duration {
        self.server.wait_ready(true, limit);
        let took = fault_end.elapsed();
        assert!(took < limit, "ready only after {took:?}");
        took
    }

    /// One request; answered by the deadline, or the test fails.
    pub fn post(&self) -> (Result<Response, NoResponse>, Duration) {
        let (answer, took) = timed(|| self.server.post(r#"{"action":"get_gift_code"}"#, ANSWER_MAX));
        assert!(answer.is_ok(), "no answer after {took:?}: {answer:?}; log:\n{}", self.server.log());
        (answer, took)
    }

    /// A request whose task is worked on for `hold_ms`.
    pub fn hold(&self, hold_ms: u64) -> Waiting {
        hold_at(&self.server, hold_ms)
    }

    /// A load on both shards until it is stopped; an answer later than the deadline allows counts as hung.
    pub fn load(&self) -> Running {
        Load::new(self.server.address())
            .connections(CONNECTIONS)
            .duration(Duration::from_mins(1))
            .answer_limit(ANSWER_MAX)
            .start()
    }

    /// The end of a row: the system serves, and nothing is left in flight, neither here nor in Redis.
    pub fn assert_healed(&self, row: &mut Row) {
        self.until_served(Instant::now(), WAIT_MAX);
        let took = self.until_idle(RELEASED_WITHIN);
        row.permits(size(&mut self.redis.client()), took);
        row.memory(self.server.memory_peak());
    }

    /// Until no request is in flight and the set is empty.
    pub fn until_idle(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        self.server.wait_metric("thousandx_in_flight", limit, |value| value == 0.0);
        self.server.wait_metric("thousandx_limiter_held", limit, |value| value == 0.0);
        let mut client = self.redis.client();
        let empty = wait_until(limit, || (size(&mut client) == 0).then_some(()));
        assert!(empty.is_some(), "{} permits are left; log:\n{}", size(&mut client), self.server.log());
        start.elapsed()
    }

    fn is_refusal(&self, answer: &Result<Response, NoResponse>, code: &str) -> bool {
        let Ok(answer) = answer else { panic!("no answer: {answer:?}; log:\n{}", self.server.log()) };
        answer.status == 503 && answer.code().as_deref() == Some(code)
    }
}

/// What the servers here are started with. They are patient with Redis, which shares the machine with the tests; rows about
/// a Redis that says nothing set less.
pub fn settings(kafka: &Kafka, tasks: &str, results: &str, redis_url: &str) -> Builder {
    Server::builder()
        .kafka(kafka, tasks, results)
        .redis(redis_url, SET)
        .set("KAFKA_GIFT_CODE_TIMEOUT", DEADLINE_S)
        .set("LEASE_MARGIN_MS", LEASE_MARGIN.as_millis().to_string())
        .set("REDIS_TIMEOUT_MS", "1000")
}

/// A request to this server whose task is worked on for `hold_ms`.
pub fn hold_at(server: &Server, hold_ms: u64) -> Waiting {
    let address = server.address();
    let body = format!(r#"{{"hold_ms":{hold_ms}}}"#);
    std::thread::spawn(move || timed(|| crate::support::http::post(address, &body, WAIT_MAX)))
}

/// A further server, started with this while something is away, ends in order and soon when it is told to.
pub fn assert_ends(row: &Row, settings: Builder) {
    let mut server = settings.start_unready();
    server.sigterm();
    let (status, took) = timed(|| server.wait_exit(END_WITHIN));
    assert!(status.success(), "{status}; log:\n{}", server.log());
    row.note("the end of a server after SIGTERM meanwhile", took);
}

/// The worker of the tests: answers with the task itself, after `hold_ms` if the task says so; `"never":true` is never
/// answered.
pub fn checker(kafka: &Kafka, tasks: &str) -> Checker {
    Checker::start(kafka, tasks, behaviour)
}

fn behaviour(seen: &Seen) -> Behaviour {
    let task: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    if task["never"] == true {
        return Behaviour::Never;
    }
    Behaviour::Answer(task["hold_ms"].as_u64().map_or(WORK, Duration::from_millis))
}

/// Permits in the set now.
pub fn size(client: &mut redis::Connection) -> u64 {
    redis::cmd("ZCARD").arg(SET).query(client).expect("ZCARD")
}

/// A command of several words.
pub fn command(client: &mut redis::Connection, line: &str) {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    for word in words {
        command.arg(word);
    }
    command.exec(client).unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// The answer of a waiting request.
pub fn answer(waiting: Waiting) -> (Response, Duration) {
    let (answer, took) = waiting.join().expect("the thread of a request");
    (answer.unwrap_or_else(|error| panic!("no answer after {took:?}: {error:?}")), took)
}

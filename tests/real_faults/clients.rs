//! Clients that behave badly in every way at once, while Redis goes and comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::stack::Stack;
use crate::stack::{ANSWER_MAX, LEASE, SET, checker, settings, size};
use crate::support::http::{Raw, post_queue};
use crate::support::kafka::Kafka;
use crate::support::redis::RedisServer;
use crate::support::rows::Row;
use crate::{REDIS_BACK, REDIS_BACK_WITHIN, WAIT_MAX, timed};

/// How long the storm lasts on each side of the outage.
const STORM: Duration = Duration::from_secs(3);
/// Threads of bad clients, each with one connection at a time.
const BAD_CLIENTS: usize = 24;
/// Below what the clients ask for, so that some are refused with 429.
const CAPACITY: &str = "10";
/// How long a slow client sends; longer than `BODY_TIMEOUT_MS`.
const SLOW: Duration = Duration::from_millis(600);
/// Resident memory that the storm may leave behind: allocator caches, and no more.
const GROWTH_MAX_BYTES: f64 = 64e6;
/// The connections of the last requests to `/metrics`, and librdkafka's.
const FDS_MORE_MAX: f64 = 4.0;

#[test]
fn c_storm_while_redis_is_restarted() {
    let mut row = Row::start("C1", "clients misbehave in nine ways while Redis is killed and restarted", REDIS_BACK);
    let kafka = Kafka::shared();
    let redis = RedisServer::start_secured();
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
    let server = settings(kafka, &tasks, &results, &redis.url())
        .set("RATE_LIMIT_CAPACITY", CAPACITY)
        .set("BODY_TIMEOUT_MS", "300")
        .set("HEADER_TIMEOUT_MS", "300")
        .start();
    let mut stack = Stack { redis, tasks, results, server };
    let _worker = checker(kafka, &stack.tasks);
    // What the first requests bring with them is not the storm's.
    stack.assert_healed(&mut row);
    let before = Footprint::of(&stack);

    let storm = Storm::start(stack.server.address());
    let load = stack.load();
    std::thread::sleep(STORM); // workload: the storm by itself
    stack.redis.kill();
    let refused = r#"thousandx_rejected_total{code="limiter_unavailable"}"#;
    stack.server.wait_metric(refused, WAIT_MAX, |value| value > 100.0);
    stack.redis.restart();
    let back = Instant::now();
    row.healed("ready after the restart, in the storm", stack.until_ready(back, REDIS_BACK_WITHIN));
    std::thread::sleep(STORM); // workload: the storm after the fault
    let sent = storm.stop();
    assert!(sent > 100, "only {sent} bad requests");
    let report = load.stop();
    row.history(&report, &[200, 429, 503]);
    println!("C    | {sent} bad requests beside the load");
    for status in [200, 429, 503] {
        assert!(report.count(status) > 0, "{status} was to be seen: {report:?}");
    }

    assert!(stack.server.metric("thousandx_client_gone_total") > 0.0, "clients that left are counted");
    row.note("idle and the set empty after the storm", stack.until_idle(LEASE));
    let ((), took) = timed(|| {
        // One is the connection that asks.
        stack.server.wait_metric("thousandx_connections_open", WAIT_MAX, |open| open <= 1.0);
        stack.server.wait_metric("process_open_fds", WAIT_MAX, |fds| fds <= before.fds + FDS_MORE_MAX);
    });
    row.note("connections and descriptors as before", took);
    let after = Footprint::of(&stack);
    println!("C    | before {before:?}, after {after:?}");
    assert!(after.resident_bytes < before.resident_bytes + GROWTH_MAX_BYTES, "{before:?}, then {after:?}");
    assert_eq!(size(&mut stack.redis.client()), 0, "{SET} stays empty");
    stack.assert_healed(&mut row);
}

/// What a process uses.
#[derive(Debug)]
struct Footprint {
    resident_bytes: f64,
    fds: f64,
}

impl Footprint {
    fn of(stack: &Stack) -> Self {
        Self {
            resident_bytes: stack.server.metric("process_resident_memory_bytes"),
            fds: stack.server.metric("process_open_fds"),
        }
    }
}

/// Bad clients on threads.
struct Storm {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Storm {
    fn start(address: SocketAddr) -> Self {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |_| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                let mut random = rand::rng();
                while !stop.load(Ordering::Relaxed) {
                    misbehave(address, &mut random);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..BAD_CLIENTS).map(client).collect();
        Self { stop, sent, threads }
    }

    /// Ends it; how many requests were sent.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a bad client's own assertions hold"));
        self.sent.load(Ordering::Relaxed)
    }
}

/// One connection, used in one of the bad ways. The server may refuse whatever it likes to such a client; it has to
/// answer what is complete.
fn misbehave(address: SocketAddr, random: &mut impl Rng) {
    let mut connection = Raw::connect(address);
    let task = post_queue(r#"{"hold_ms":200}"#);
    match random.random_range(0..9) {
        // Leaves at once, and while its task is worked on: FIN, then a socket that is gone.
        0 => connection.send(&task),
        1 => {
            connection.send(&task);
            pause(random);
        }
        // The same with a reset.
        2 => {
            connection.send(&task);
            pause(random);
            connection.reset();
        }
        // The same with the beginning of a next request behind it.
        3 => {
            connection.send(&[task.as_slice(), b"POST /queue HTT"].concat());
            pause(random);
        }
        // Two whole requests, and gone.
        4 => {
            connection.send(&[task.as_slice(), &task].concat());
            pause(random);
            connection.reset();
        }
        // Half-closes and waits for its answer.
        5 => {
            connection.send(&task);
            connection.half_close();
            let answer = connection.response(ANSWER_MAX);
            // Who has closed may be taken for one who has left.
            if let Err(crate::support::http::NoResponse::Timeout(_)) = answer {
                panic!("a half-closed connection hangs");
            }
        }
        // No JSON.
        6 => {
            connection.send(&post_queue("{\"hold_ms\":"));
            let answer = connection.response(ANSWER_MAX).expect("an answer");
            assert_eq!(answer.code().as_deref(), Some("malformed_json"));
        }
        // Never answered: 504 at the deadline, or refused.
        7 if random.random_bool(0.1) => {
            connection.send(&post_queue(r#"{"never":true}"#));
            let answer = connection.response(ANSWER_MAX).expect("an answer");
            assert!([429, 503, 504].contains(&answer.status), "{answer:?}");
        }
        // A body that does not come.
        _ => {
            connection.send(b"POST /queue HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{\"slow\":");
            let answer = connection.response(SLOW + ANSWER_MAX).expect("an answer");
            assert_eq!(answer.status, 408, "{answer:?}");
        }
    }
}

/// For a client that leaves at some moment of its request.
fn pause(random: &mut impl Rng) {
    // workload: between 0 and more than the task takes
    std::thread::sleep(Duration::from_millis(random.random_range(0..250)));
}

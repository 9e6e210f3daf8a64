//! What happens to the server's own process: stopped, out of descriptors, one thread blocked, a wrong clock, a twin.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::stack::{DEADLINE, SET, Stack, Waiting, answer, checker, hold_at, settings, size};
use crate::support::http::{Raw, Response, post_queue};
use crate::support::kafka::Kafka;
use crate::support::load::Load;
use crate::support::process::{Process, command};
use crate::support::rows::Row;
use crate::support::server::{Builder, Server};
use crate::support::{metrics, repository, scratch_dir, wait_until};
use crate::{REDIS_AT_ONCE, REFUSED_WITHIN, WAIT_MAX, timed};

/// An answer that waits for nothing, on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// Ids in the set now.
fn ids(stack: &Stack) -> BTreeSet<Vec<u8>> {
    redis::cmd("ZRANGE").arg(SET).arg(&[0, -1]).query(&mut stack.redis.client()).expect("ZRANGE")
}

/// Waits until so many permits are in the set.
fn wait_size(stack: &Stack, count: u64) {
    let mut client = stack.redis.client();
    let seen = wait_until(WAIT_MAX, || (size(&mut client) == count).then_some(()));
    assert!(seen.is_some(), "{} permits and not {count}; log:\n{}", size(&mut client), stack.server.log());
}

/// The end of a row: nothing is in flight at any of these servers, nothing is left in Redis.
fn assert_empty(row: &mut Row, stack: &Stack, servers: &[&Server]) {
    let (_, took) = timed(|| {
        for server in servers {
            server.wait_metric("thousandx_in_flight", SOON, |count| count == 0.0);
        }
        wait_until(SOON, || (size(&mut stack.redis.client()) == 0).then_some(()))
    });
    row.permits(size(&mut stack.redis.client()), took);
}

#[test]
fn s4_stopped_for_longer_than_the_lease() {
    const CAPACITY: usize = 4;
    const LEASE: Duration = Duration::from_secs(3);
    let mut row = Row::start("S4", "an instance is stopped (SIGSTOP) for longer than its lease", REDIS_AT_ONCE);
    let kafka = Kafka::shared();
    let capped = |settings: Builder| settings.set("RATE_LIMIT_CAPACITY", CAPACITY.to_string());
    let short = |settings: Builder| {
        let settings = settings.set("KAFKA_GIFT_CODE_TIMEOUT", "2").set("KAFKA_DELIVERY_TIMEOUT_MS", "1000");
        capped(settings.set("LEASE_MARGIN_MS", "1000"))
    };
    let mut stack = Stack::start_with(kafka, short);
    let _worker = checker(kafka, &stack.tasks);
    let other = capped(settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));
    let other = other.set("KAFKA_GIFT_CODE_TIMEOUT", "20").start();
    let held: Vec<Waiting> = (0..CAPACITY).map(|_| stack.hold(60_000)).collect();
    wait_size(&stack, CAPACITY as u64);
    let lost = ids(&stack);

    stack.server.process().sigstop();
    let stopped = Instant::now();
    let free = wait_until(LEASE + SOON, || {
        let (answer, took) = timed(|| other.post("{}", SOON).expect("the other instance serves"));
        assert!(answer.status == 200 || answer.code().as_deref() == Some("capacity_reached"), "{}", answer.text());
        (answer.status == 200).then_some(took)
    });
    assert!(free.is_some(), "its permits come back to the others");
    row.note("200 from the other instance", stopped.elapsed());
    wait_until(SOON, || ids(&stack).is_disjoint(&lost).then_some(())).expect("none of the old ids is left");
    let others: Vec<Waiting> = (0..CAPACITY).map(|_| hold_at(&other, 6_000)).collect();
    wait_size(&stack, CAPACITY as u64);
    let theirs = ids(&stack);

    stack.server.process().sigcont();
    let woken = Instant::now();
    for waiting in held {
        let (answer, _) = answer(waiting);
        assert_eq!((answer.status, answer.code().as_deref()), (504, Some("reply_timeout")), "{}", answer.text());
    }
    row.healed("504 for what waited, all four", woken.elapsed());
    // It has given back its own by now, whether they were in the set again or not.
    wait_until(SOON, || ids(&stack).is_disjoint(&lost).then_some(())).expect("its own are given back");
    assert!(ids(&stack).is_superset(&theirs), "nobody else's permit was given back");
    for waiting in others {
        assert_eq!(answer(waiting).0.status, 200);
    }
    row.healed("first 200 from the woken instance", stack.until_served(Instant::now(), SOON));
    row.saw("504 × 4 on waking; 200 from the other instance");
    assert_empty(&mut row, &stack, &[&stack.server, &other]);
}

#[test]
fn s5_clocks_an_hour_apart() {
    const CAPACITY: usize = 6;
    let mut row = Row::start("S5", "one of three instances has a clock an hour ahead, one an hour behind", None);
    let dir = scratch_dir("clock");
    let library = wrong_clock(dir.path());
    let kafka = Kafka::shared();
    let capped = |settings: Builder| settings.set("RATE_LIMIT_CAPACITY", CAPACITY.to_string());
    let stack = Stack::start_with(kafka, capped);
    let worker = checker(kafka, &stack.tasks);
    let off = |by_s: &str| {
        let builder = settings(kafka, &stack.tasks, &stack.results, &stack.redis.url());
        capped(builder.set("LD_PRELOAD", library.as_str()).set("CLOCK_OFFSET_S", by_s)).start()
    };
    let servers = [off("3600"), off("-3600")];
    let one = servers[0].post("{}", SOON).expect("an answer");
    assert_eq!(one.status, 200, "{}", one.text());
    let ahead = worker.history().iter().any(|seen| {
        let deadline = seen.headers.get("x-deadline-ms").map(|text| String::from_utf8_lossy(text).into_owned());
        let deadline: u128 = deadline.and_then(|text| text.parse().ok()).expect("a deadline");
        deadline > unix_ms() + 3_000_000
    });
    assert!(ahead, "the clock of the first server is ahead");

    let all = [&stack.server, &servers[0], &servers[1]];
    let load = |server: &&Server| Load::new(server.address()).connections(4).duration(SOON).start();
    let late = hold_at(&servers[0], 60_000);
    for load in all.each_ref().map(load) {
        let report = load.join();
        assert!(report.count(200) > 0, "{report:?}");
        row.history(&report, &[200, 429]);
    }
    // The deadline is the monotonic clock's.
    let (answer, took) = answer(late);
    assert_eq!(answer.code().as_deref(), Some("reply_timeout"));
    assert!((DEADLINE..DEADLINE + SOON).contains(&took), "{took:?}");
    row.note("504 at the deadline by a clock that is ahead", took);
    let most = worker.counts().in_flight_max;
    assert!(most <= CAPACITY, "{most} at the worker at once");
    assert_empty(&mut row, &stack, &all);
}

/// A library to preload whose wall clock is wrong; the compiler is there, since it built librdkafka.
fn wrong_clock(dir: &Path) -> String {
    let library = dir.join("clock.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library);
    let output = compiler.arg(repository("tests/real_faults/clock.c")).output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library.to_str().expect("a temporary path in UTF-8").to_owned()
}

fn unix_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis()
}

/// The instance number is drawn at each start, not configured: what is configured may be the same by mistake.
#[test]
fn s6_twins() {
    let mut row = Row::start("S6", "three instances with the same settings, two of which end", None);
    let kafka = Kafka::shared();
    let twin = |settings: Builder| {
        let settings = settings.set("REPLY_ROUTING", "partition").set("REPLY_PARTITIONS", "0,1");
        settings.set("KAFKA_GIFT_CODE_TIMEOUT", "20")
    };
    let stack = Stack::start_with(kafka, twin);
    let _worker = checker(kafka, &stack.tasks);
    let mut other = twin(settings(kafka, &stack.tasks, &stack.results, &stack.redis.url())).start();
    let load = |server: &Server| Load::new(server.address()).connections(4).duration(SOON).start();
    for load in [load(&stack.server), load(&other)] {
        row.history(&load.join(), &[200]);
    }
    stack.server.wait_metric(r#"thousandx_replies_total{result="foreign"}"#, SOON, |count| count > 0.0);

    let mut third = twin(settings(kafka, &stack.tasks, &stack.results, &stack.redis.url())).start();
    // For longer than two servers take to end.
    let held: Vec<Waiting> = (0..4).map(|_| stack.hold(6_000)).collect();
    wait_size(&stack, 4);
    let mine = ids(&stack);
    // One ends in order, one is killed: neither gives back what is the other's.
    other.sigterm();
    assert!(other.wait_exit(WAIT_MAX).success(), "{}", other.log());
    third.kill9();
    assert!(held.iter().all(|waiting| !waiting.is_finished()), "still held");
    assert_eq!(ids(&stack), mine, "no permit of the one that lives was given back");
    for waiting in held {
        assert_eq!(answer(waiting).0.status, 200);
    }
    assert_empty(&mut row, &stack, &[&stack.server]);
}

#[test]
fn s7_out_of_file_descriptors() {
    /// How long there are none. Long enough to see the longest pause a few times.
    const SHORTAGE: Duration = Duration::from_secs(1);
    const SHARDS: f64 = 2.0;
    let mut row = Row::start("S7", "no file descriptor is left", Duration::from_secs(1));
    let kafka = Kafka::shared();
    let mut stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let mut served: Vec<Raw> = (0..8).map(|_| Raw::connect(stack.server.address())).collect();
    for client in &mut served {
        assert_eq!(ask(client, "{}").status, 200);
    }

    let pid = stack.server.process().pid();
    let before = limit_descriptors(pid, None);
    let waiting: Vec<_> = (0..4).map(|_| stack.hold(0)).collect();
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < SHORTAGE {
        for client in &mut served {
            let (answer, took) = timed(|| ask(client, "{}"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            slowest = slowest.max(took);
        }
    }
    assert!(slowest < REFUSED_WITHIN, "{slowest:?}");
    row.note("200 on connections from before, the slowest", slowest);
    let errors = failed_accepts(&mut served[0]);
    // 10, 20, 40, 80 and then 100 ms apart.
    let most = SHARDS * (5.0 + begun.elapsed().as_secs_f64() * 10.0);
    assert!((1.0..=most).contains(&errors), "{errors} failed accepts, at most {most} with pauses");
    println!("S7 | {errors} failed accepts in {:?}", begun.elapsed());
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "who came meanwhile waits");

    limit_descriptors(pid, Some(before));
    let back = Instant::now();
    for waiting in waiting {
        assert_eq!(answer(waiting).0.status, 200);
    }
    row.healed("200 for all that waited", back.elapsed());
    row.saw("200 on old connections; new ones wait and get 200");
    stack.assert_healed(&mut row);
}

/// One request on a connection that is kept.
fn ask(client: &mut Raw, body: &str) -> Response {
    client.send(&post_queue(body));
    client.response(SOON).expect("an answer")
}

fn failed_accepts(client: &mut Raw) -> f64 {
    client.send(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n");
    let text = client.response(SOON).expect("an answer").text();
    metrics::value(&text, "thousandx_accept_errors_total").unwrap_or(0.0)
}

/// Sets the soft limit of a process: to a former one, or so that it gets no further descriptor. Returns the limit of
/// before.
fn limit_descriptors(pid: u32, former: Option<Rlimit>) -> Rlimit {
    let open: BTreeSet<u64> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the descriptors of a child can be listed")
        .map(|entry| entry.expect("a descriptor").file_name().to_string_lossy().parse().expect("a number"))
        .collect();
    let lowest_free = (0..=open.len() as u64).find(|number| !open.contains(number)).expect("some number is free");
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // The hard limit stays: raising it again would need privileges.
    let set = |current| {
        let now = rustix::process::getrlimit(Resource::Nofile);
        let maximum = former.as_ref().map_or(now.maximum, |former| former.maximum);
        prlimit(process, Resource::Nofile, Rlimit { current, maximum }).expect("the limit of a child can be set")
    };
    set(former.as_ref().map_or(Some(lowest_free), |former| former.current))
}

#[test]
fn s10_one_shard_is_blocked() {
    const BLOCKED: Duration = Duration::from_secs(3);
    let mut row = Row::start("S10", "one of two shards is blocked for 3 s", REDIS_AT_ONCE);
    let kafka = Kafka::shared();
    let mut stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let mut clients: Vec<Raw> = (0..16).map(|_| Raw::connect(stack.server.address())).collect();
    for client in &mut clients {
        assert_eq!(ask(client, r#"{"hold_ms":0}"#).status, 200);
    }

    let Some(tracer) = block(&mut stack.server, "shard-0", BLOCKED, &mut row) else { return };
    let begun = Instant::now();
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let ask_late = |client: &mut Raw| {
            client.send(&post_queue(r#"{"hold_ms":0}"#));
            let answer = client.response(BLOCKED + SOON).expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            begun.elapsed()
        };
        let threads: Vec<_> = clients.iter_mut().map(|client| scope.spawn(move || ask_late(client))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a request")).collect()
    });
    let (at_once, blocked): (Vec<Duration>, Vec<Duration>) = times.into_iter().partition(|took| *took < BLOCKED / 3);
    drop(tracer);
    let slowest = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    assert!(!at_once.is_empty() && !blocked.is_empty(), "at once: {at_once:?}, blocked: {blocked:?}");
    row.note(&format!("{} of 16 at once on the other shard, the slowest", at_once.len()), slowest(&at_once));
    row.note("the others, the slowest", slowest(&blocked));
    row.healed("200 for all after the block", slowest(&blocked).saturating_sub(BLOCKED));
    row.saw(format!("200 × {} at once, 200 × {} after the block", at_once.len(), blocked.len()));
    stack.assert_healed(&mut row);
}

/// Blocks one thread of a server for a while, when it next waits for events; the others run on. `None`, and the row skipped,
/// where that cannot be had.
fn block(server: &mut Server, thread: &str, time: Duration, row: &mut Row) -> Option<Process> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process().pid())).expect("threads of a child");
    let mut paths = tasks.flatten().map(|entry| entry.path());
    let is_it = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == thread)
    };
    let path = paths.find(is_it).expect("a thread of this name");
    let dir = scratch_dir("strace");
    let log = dir.path().join("log");
    let mut strace = command("strace");
    strace.arg("-p").arg(path.file_name().expect("a thread id")).arg("-o").arg("/dev/null");
    strace.arg("-e").arg(format!("inject=?epoll_wait,?epoll_pwait:delay_enter={}:when=1", time.as_micros()));
    let mut tracer = Process::spawn("strace", strace, log);
    let attached = wait_until(SOON, || tracer.log().contains("attached").then_some(()));
    if attached.is_none() || tracer.exited().is_some() {
        row.skip(format!("strace (Debian: strace) cannot attach to a thread: {}", tracer.log()));
        return None;
    }
    Some(tracer)
}

//! Redis is away, hangs, forgets, refuses.

use std::time::{Duration, Instant};

use crate::stack::{LEASE, SET, Stack, answer, assert_ends, checker, command, settings, size};
use crate::support::canary;
use crate::support::http::get;
use crate::support::kafka::Kafka;
use crate::support::process::{Process, command as child};
use crate::support::redis::RedisServer;
use crate::support::rows::{BUSY, Row};
use crate::support::server::Builder;
use crate::support::wait_until;
use crate::{REDIS_AT_ONCE, REDIS_BACK, REDIS_BACK_WITHIN, REFUSED_WITHIN, WAIT_MAX, timed};

/// The default of `REDIS_TIMEOUT_MS`, for a row in which Redis says nothing.
const TIMEOUT_MS: &str = "250";
const UNAVAILABLE: &str = "limiter_unavailable";

#[test]
fn r1_down_at_start() {
    let mut row = Row::start("R1", "Redis is down at the start", REDIS_BACK);
    row.saw("503, then 200");
    let kafka = Kafka::shared();
    let mut redis = RedisServer::start_secured();
    redis.kill();
    let (tasks, results) = (kafka.topic("tasks", 2), kafka.topic("results", 2));
    let _worker = checker(kafka, &tasks);
    let server = settings(kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    wait_for_kafka(&stack);
    assert_eq!(stack.server.get("/livez").expect("an answer").status, 200);
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row.refused("503, the slowest of 10", stack.all_refused(UNAVAILABLE, 10, REFUSED_WITHIN));

    stack.redis.restart();
    let back = Instant::now();
    row.note("ready after the start of Redis", stack.until_ready(back, REDIS_BACK_WITHIN));
    row.healed("first 200 after the start of Redis", stack.until_served(back, REDIS_BACK_WITHIN));
    stack.assert_healed(&mut row);
}

#[test]
fn r2_killed_and_restarted_under_load() {
    let mut row = Row::start("R2", "Redis is killed (SIGKILL) and restarted", REDIS_BACK);
    let kafka = Kafka::shared();
    let mut stack = Stack::start(kafka);
    let worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    let in_flight = stack.hold(2_000);
    wait_until(WAIT_MAX, || worker.history().iter().any(|seen| seen.body.starts_with(b"{\"hold_ms\"")).then_some(()))
        .expect("the long task is in flight");

    stack.redis.kill();
    row.refused("first 503 after the kill", stack.until_refused(UNAVAILABLE, REFUSED_WITHIN));
    row.refused("503, the slowest of 50", stack.all_refused(UNAVAILABLE, 50, REFUSED_WITHIN));
    let (held, took) = answer(in_flight);
    assert_eq!(held.status, 200, "what was in flight is answered: {}", held.text());
    row.note("the answer of what was in flight (2000 ms of work)", took);

    stack.redis.restart();
    let back = Instant::now();
    row.healed("first 200 after the restart", stack.until_served(back, REDIS_BACK_WITHIN));
    row.healed("ready after the restart", stack.until_ready(back, REDIS_BACK_WITHIN));
    row.history(&load.stop(), &[200, 503]);
    stack.assert_healed(&mut row);
}

#[test]
fn r3_hung_under_load() {
    let mut row = Row::start("R3", "Redis hangs (SIGSTOP)", REDIS_AT_ONCE);
    let kafka = Kafka::shared();
    let hasty = |settings: Builder| settings.set("REDIS_TIMEOUT_MS", TIMEOUT_MS);
    let mut stack = Stack::start_with(kafka, hasty);
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);

    stack.redis.sigstop();
    let (first, took) = stack.post();
    assert_eq!(first.expect("an answer").code().as_deref(), Some(UNAVAILABLE));
    assert!(took < REFUSED_WITHIN, "{took:?}");
    row.refused("the first 503", took);
    // Each shard finds out for itself: the load has shown it to both by now.
    row.refused("503 then, the slowest of 50", stack.all_refused(UNAVAILABLE, 50, REFUSED_WITHIN));
    stack.server.wait_ready(false, REFUSED_WITHIN);
    assert_ends(&row, hasty(settings(kafka, &stack.tasks, &stack.results, &stack.redis.url())));

    stack.redis.sigcont();
    let back = Instant::now();
    row.healed("first 200 after SIGCONT", stack.until_served(back, REDIS_BACK_WITHIN));
    row.healed("ready after SIGCONT", stack.until_ready(back, REDIS_BACK_WITHIN));
    row.history(&load.stop(), &[200, 503]);
    // Far within a lease: what is in the set after this would be a permit that nobody holds.
    stack.assert_healed(&mut row);
}

#[test]
fn r4_slow_and_connections_cut_under_load() {
    let mut row = Row::start("R4", "Redis takes 200 ms; all its connections are cut", REDIS_BACK);
    let kafka = Kafka::shared();
    let stack = Stack::start_with(kafka, |settings| settings.set("REDIS_TIMEOUT_MS", "1500"));
    let _worker = checker(kafka, &stack.tasks);
    let mut client = stack.redis.client();
    let load = stack.load();
    // Slower than any network, far within the budget of a call.
    for _ in 0..5 {
        command(&mut client, "CLIENT PAUSE 200 ALL");
        let (answer, took) = stack.post();
        assert_eq!(answer.expect("an answer").status, 200);
        row.note("200 while Redis takes 200 ms", took);
    }
    row.history(&load.stop(), &[200]);

    let load = stack.load();
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        command(&mut client, "CLIENT KILL TYPE normal SKIPME yes");
        slowest = slowest.max(stack.until_served(Instant::now(), REDIS_BACK_WITHIN));
    }
    row.healed("200 after all connections were cut, the slowest of 10", slowest);
    row.history(&load.stop(), &[200, 503]);
    stack.assert_healed(&mut row);
}

#[test]
fn r5_everything_is_deleted_under_load() {
    let mut row = Row::start("R5", "FLUSHALL", LEASE / 3);
    let kafka = Kafka::shared();
    // The same lease; what is in flight stays so for longer than a third of it.
    let patient = |settings: Builder| settings.set("KAFKA_GIFT_CODE_TIMEOUT", "8").set("LEASE_MARGIN_MS", "1000");
    let stack = Stack::start_with(kafka, patient);
    let worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    let held: Vec<_> = (0..5).map(|_| stack.hold(6_500)).collect();
    let long = || {
        let long = |seen: &crate::support::checker::Seen| seen.body.starts_with(b"{\"hold_ms\"");
        worker.history().into_iter().filter(long).map(|seen| seen.id).collect::<Vec<_>>()
    };
    wait_until(WAIT_MAX, || (long().len() == held.len()).then_some(())).expect("all are in flight");
    let ids = long();
    let mut client = stack.redis.client();
    let there = |client: &mut redis::Connection| {
        let scores: Vec<Option<f64>> = redis::cmd("ZMSCORE").arg(SET).arg(&ids).query(client).expect("ZMSCORE");
        scores.into_iter().all(|score| score.is_some())
    };
    assert!(there(&mut client), "all hold a permit");
    command(&mut client, "FLUSHALL");
    let limit = LEASE / 3 + BUSY;
    let (seen, took) = timed(|| wait_until(limit, || there(&mut client).then_some(())));
    assert!(seen.is_some(), "the permits of what is in flight are not back after {limit:?}");
    row.healed("permits of what is in flight are in the set again", took);
    for waiting in held {
        assert_eq!(answer(waiting).0.status, 200);
    }
    row.history(&load.stop(), &[200]);
    stack.assert_healed(&mut row);
}

#[test]
fn r6_scripts_are_forgotten_under_load() {
    let mut row = Row::start("R6", "SCRIPT FLUSH", Duration::ZERO);
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    let mut client = stack.redis.client();
    for reloads in 1..=5 {
        command(&mut client, "SCRIPT FLUSH");
        let reload = "thousandx_limiter_script_reload_total";
        stack.server.wait_metric(reload, WAIT_MAX, |value| value >= f64::from(reloads));
        let (answer, took) = stack.post();
        assert_eq!(answer.expect("an answer").status, 200);
        row.healed("200 after SCRIPT FLUSH", took);
    }
    row.history(&load.stop(), &[200]);
    stack.assert_healed(&mut row);
}

/// A fail-over in which the old primary loses what it had: it follows a replica that was promoted too early, and is
/// promoted itself again. What the promoted one still had in its set are ghosts: ids that nobody holds.
#[test]
fn r7_failover_with_loss_under_load() {
    /// Deadline and margin of this server together.
    const SHORT_LEASE: Duration = Duration::from_secs(3);
    let mut row = Row::start("R7", "failover: READONLY, a promotion, five ghosts", Duration::from_secs(5));
    let kafka = Kafka::shared();
    let stack = Stack::start_with(kafka, |settings| {
        let settings = settings.set("KAFKA_GIFT_CODE_TIMEOUT", "2").set("KAFKA_DELIVERY_TIMEOUT_MS", "1000");
        settings.set("LEASE_MARGIN_MS", "1000")
    });
    let _worker = checker(kafka, &stack.tasks);
    let replica = RedisServer::start_secured();
    let (mut first, mut second) = (stack.redis.client(), replica.client());
    // By default a primary waits 5 s for further replicas.
    for client in [&mut first, &mut second] {
        command(client, "CONFIG SET repl-diskless-sync-delay 0");
    }
    let follow = |client: &mut redis::Connection, port: u16| {
        command(client, &format!("REPLICAOF 127.0.0.1 {port}"));
        let linked = wait_until(WAIT_MAX, || is_linked(client).then_some(()));
        assert!(linked.is_some(), "the replica is in step");
    };
    follow(&mut second, stack.redis.port());
    let held: Vec<_> = (0..5).map(|_| stack.hold(1_500)).collect();
    wait_until(WAIT_MAX, || (size(&mut second) == 5).then_some(())).expect("the replica has the permits");
    command(&mut second, "REPLICAOF NO ONE");
    for waiting in held {
        assert_eq!(answer(waiting).0.status, 200);
    }
    wait_until(WAIT_MAX, || (size(&mut first) == 0).then_some(())).expect("the first has none");

    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);
    let lost = Instant::now();
    follow(&mut first, replica.port());
    assert_eq!(size(&mut first), 5, "the ghosts are in the set");
    row.refused("first 503", stack.until_refused(UNAVAILABLE, REFUSED_WITHIN));
    row.refused("503, the slowest of 20", stack.all_refused(UNAVAILABLE, 20, REFUSED_WITHIN));
    let readonly = stack.server.metric(r#"thousandx_limiter_errors_total{kind="readonly"}"#);
    assert!(readonly > 0.0, "it is told apart: {}", stack.server.metrics());
    command(&mut first, "REPLICAOF NO ONE");
    let back = Instant::now();
    row.healed("first 200 after the promotion", stack.until_served(back, Duration::from_secs(5)));
    row.history(&load.stop(), &[200, 503]);
    // The ghosts' lease began before the fault did; the next call after its end removes them.
    let gone = wait_until(SHORT_LEASE + REFUSED_WITHIN, || {
        drop(stack.post());
        (size(&mut first) == 0).then(|| lost.elapsed())
    });
    let gone = gone.expect("the ghosts are gone within a lease");
    row.note("no ghost is left after", gone);
    stack.assert_healed(&mut row);
}

/// Whether a replica has everything that its primary had when it asked.
fn is_linked(client: &mut redis::Connection) -> bool {
    let info: String = redis::cmd("INFO").arg("replication").query(client).expect("INFO");
    info.contains("master_link_status:up") && info.contains("master_sync_in_progress:0")
}

#[test]
fn r8_wrong_password_and_no_secret_in_sight() {
    const WRONG: &str = "canary-wrong";
    const SECRETS: [&str; 3] = [WRONG, canary::REDIS, canary::KAFKA];
    let mut row = Row::start("R8", "a wrong password for Redis", None);
    row.saw("503");
    let kafka = Kafka::shared();
    let redis = RedisServer::start_secured();
    let (tasks, results) = (kafka.topic("tasks", 2), kafka.topic("results", 2));
    let _worker = checker(kafka, &tasks);
    // The most that can be logged.
    let build = |url: &str| settings(kafka, &tasks, &results, url).set("LOG_LEVEL", "trace");
    let right = build(&redis.url()).start();
    let wrong = build(&redis.url().replace(canary::REDIS, WRONG)).start_unready();
    let outputs = [right.metrics(), wrong.metrics(), listing(&redis.url())];
    let stack = Stack { redis, tasks: tasks.clone(), results: results.clone(), server: wrong };
    wait_for_kafka(&stack);
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row.refused("503, the slowest of 10", stack.all_refused(UNAVAILABLE, 10, REFUSED_WITHIN));
    stack.server.wait_metric(r#"thousandx_limiter_errors_total{kind="auth"}"#, WAIT_MAX, |value| value >= 2.0);
    assert_eq!(right.post("", WAIT_MAX).expect("an answer").status, 200);
    let verbose = get(stack.server.address(), "/readyz?verbose", WAIT_MAX).expect("an answer").text();
    for (text, secret) in outputs
        .iter()
        .chain(&[right.log(), stack.server.log(), stack.server.metrics(), verbose])
        .flat_map(|text| SECRETS.map(|secret| (text, secret)))
    {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is to be seen");
    }
    assert!(stack.server.log().contains("auth"), "the log says why: {}", stack.server.log());
    let empty = || (size(&mut stack.redis.client()) == 0).then_some(());
    let (seen, took) = timed(|| wait_until(REFUSED_WITHIN, empty));
    assert!(seen.is_some(), "the right one's permit was given back");
    row.permits(0, took);
}

#[test]
fn r9_out_of_memory_under_load() {
    let mut row = Row::start("R9", "Redis has no memory left (maxmemory)", REDIS_AT_ONCE);
    let kafka = Kafka::shared();
    let mut stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);
    let mut client = stack.redis.client();
    command(&mut client, "CONFIG SET maxmemory 1");
    row.refused("first 503", stack.until_refused(UNAVAILABLE, REFUSED_WITHIN));
    row.refused("503, the slowest of 50", stack.all_refused(UNAVAILABLE, 50, REFUSED_WITHIN));
    stack.server.wait_ready(false, REFUSED_WITHIN * 2);

    command(&mut client, "CONFIG SET maxmemory 0");
    let back = Instant::now();
    row.healed("first 200 after", stack.until_served(back, REDIS_BACK_WITHIN));
    row.healed("ready after", stack.until_ready(back, REDIS_BACK_WITHIN));
    row.history(&load.stop(), &[200, 503]);
    stack.assert_healed(&mut row);
}

/// Until the Kafka parts of a server are ready that is not, as a whole.
fn wait_for_kafka(stack: &Stack) {
    let ready = wait_until(WAIT_MAX, || {
        let parts = stack.server.get("/readyz?verbose").ok()?.text();
        (parts.contains("[+] kafka producer") && parts.contains("[+] kafka replies")).then_some(())
    });
    assert!(ready.is_some(), "Kafka is there: {}", stack.server.log());
}

/// What `thousandx config` prints with these secrets, standard error included.
fn listing(redis_url: &str) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = child(env!("CARGO_BIN_EXE_thousandx"));
    config.arg("config").current_dir(dir.path()).env_clear();
    config.env("REDIS_URL", redis_url).env("KAFKA_CONFIG", canary::kafka_config());
    if let Some(path) = std::env::var_os("PATH") {
        config.env("PATH", path);
    }
    let mut process = Process::spawn("thousandx config", config, dir.path().join("log"));
    assert!(process.wait_exit(WAIT_MAX).success(), "{}", process.log());
    let text = process.log();
    assert!(text.contains("REDIS_URL"), "{text}");
    text
}

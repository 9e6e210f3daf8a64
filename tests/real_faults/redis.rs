//! Redis is away, hangs, forgets, refuses.

use std::time::{Duration, Instant};

use crate::stack::{LEASE, SET, Stack, answer, assert_ends, assert_sound, checker, command, settings};
use crate::support::http::get;
use crate::support::kafka::Kafka;
use crate::support::process::{Process, command as child};
use crate::support::redis::RedisServer;
use crate::support::server::Builder;
use crate::support::wait_until;
use crate::{AT_ONCE, REDIS_BACK_WITHIN, REFUSED_WITHIN, WAIT_MAX, row, timed};

/// `REDIS_TIMEOUT_MS` is 250; the rest is for a busy machine.
const HUNG_WITHIN: Duration = Duration::from_millis(600);
const UNAVAILABLE: &str = "limiter_unavailable";

#[test]
fn r1_down_at_start() {
    let kafka = Kafka::shared();
    let mut redis = RedisServer::start();
    redis.kill();
    let (tasks, results) = (kafka.topic("tasks", 2), kafka.topic("results", 2));
    let _worker = checker(kafka, &tasks);
    let server = settings(kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    wait_for_kafka(&stack);
    assert_eq!(stack.server.get("/livez").expect("an answer").status, 200);
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row("R1", "503, the slowest of 10", stack.all_refused(UNAVAILABLE, 10, REFUSED_WITHIN));

    stack.redis.restart();
    let back = Instant::now();
    row("R1", "ready after the start of Redis", stack.until_ready(back, REDIS_BACK_WITHIN));
    stack.assert_healed("R1");
}

#[test]
fn r2_killed_and_restarted_under_load() {
    let kafka = Kafka::shared();
    let mut stack = Stack::start(kafka);
    let worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    let in_flight = stack.hold(2_000);
    wait_until(WAIT_MAX, || worker.history().iter().any(|seen| seen.body.starts_with(b"{\"hold_ms\"")).then_some(()))
        .expect("the long task is in flight");

    stack.redis.kill();
    row("R2", "first 503 after the kill", stack.until_refused(UNAVAILABLE, REFUSED_WITHIN));
    row("R2", "503, the slowest of 50", stack.all_refused(UNAVAILABLE, 50, REFUSED_WITHIN));
    let (held, took) = answer(in_flight);
    assert_eq!(held.status, 200, "what was in flight is answered: {}", held.text());
    row("R2", "the answer of what was in flight (2000 ms of work)", took);

    stack.redis.restart();
    let back = Instant::now();
    row("R2", "first 200 after the restart", stack.until_served(back, REDIS_BACK_WITHIN));
    row("R2", "ready after the restart", stack.until_ready(back, REDIS_BACK_WITHIN));
    assert_sound(&load.stop(), &[200, 503]);
    stack.assert_healed("R2");
}

#[test]
fn r3_hung_under_load() {
    let kafka = Kafka::shared();
    let mut stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);

    stack.redis.sigstop();
    let (first, took) = stack.post();
    assert_eq!(first.expect("an answer").code().as_deref(), Some(UNAVAILABLE));
    assert!(took < HUNG_WITHIN, "{took:?}");
    row("R3", "the first 503", took);
    // Each shard finds out for itself: the load has shown it to both by now.
    row("R3", "503 then, the slowest of 50", stack.all_refused(UNAVAILABLE, 50, HUNG_WITHIN));
    stack.server.wait_ready(false, REFUSED_WITHIN);
    assert_ends("R3", settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));

    stack.redis.sigcont();
    let back = Instant::now();
    row("R3", "first 200 after SIGCONT", stack.until_served(back, REDIS_BACK_WITHIN));
    row("R3", "ready after SIGCONT", stack.until_ready(back, REDIS_BACK_WITHIN));
    assert_sound(&load.stop(), &[200, 503]);
    // Far within a lease: what is in the set after this would be a permit that nobody holds.
    stack.assert_healed("R3");
}

#[test]
fn r4_slow_and_connections_cut_under_load() {
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
        row("R4", "200 while Redis takes 200 ms", took);
    }
    assert_sound(&load.stop(), &[200]);

    let load = stack.load();
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        command(&mut client, "CLIENT KILL TYPE normal SKIPME yes");
        slowest = slowest.max(stack.until_served(Instant::now(), REDIS_BACK_WITHIN));
    }
    row("R4", "200 after all connections were cut, the slowest of 10", slowest);
    assert_sound(&load.stop(), &[200, 503]);
    stack.assert_healed("R4");
}

#[test]
fn r5_everything_is_deleted_under_load() {
    let kafka = Kafka::shared();
    // The same lease; what is in flight stays so for longer than a third of it.
    let patient = |settings: Builder| settings.set("KAFKA_GIFT_CODE_TIMEOUT", "8").set("LEASE_MARGIN_MS", "1000");
    let stack = Stack::start_with(kafka, patient);
    let worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    let held: Vec<_> = (0..5).map(|_| stack.hold(4_500)).collect();
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
    let limit = LEASE / 3 + Duration::from_millis(500);
    let (seen, took) = timed(|| wait_until(limit, || there(&mut client).then_some(())));
    assert!(seen.is_some(), "the permits of what is in flight are not back after {limit:?}");
    row("R5", "permits of what is in flight are in the set again", took);
    for waiting in held {
        assert_eq!(answer(waiting).0.status, 200);
    }
    assert_sound(&load.stop(), &[200]);
    stack.assert_healed("R5");
}

#[test]
fn r6_scripts_are_forgotten_under_load() {
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
        row("R6", "200 after SCRIPT FLUSH", took);
    }
    assert_sound(&load.stop(), &[200]);
    stack.assert_healed("R6");
}

#[test]
fn r8_wrong_password_and_no_secret_in_sight() {
    const SECRETS: [&str; 3] = ["canary-wrong", "canary-right", "canary-kafka"];
    let kafka = Kafka::shared();
    let redis = RedisServer::start();
    command(&mut redis.client(), "CONFIG SET requirepass canary-right");
    let (tasks, results) = (kafka.topic("tasks", 2), kafka.topic("results", 2));
    let _worker = checker(kafka, &tasks);
    let url = |password: &str| redis.url().replace("redis://", &format!("redis://:{password}@"));
    let build = |password: &str| {
        settings(kafka, &tasks, &results, &url(password))
            // The most that can be logged; `sasl.password` is not used without SASL.
            .set("LOG_LEVEL", "trace")
            .set("KAFKA_CONFIG", "sasl.password=canary-kafka")
    };
    let right = build("canary-right").start();
    let wrong = build("canary-wrong").start_unready();
    let outputs = [right.metrics(), wrong.metrics(), listing(&url("canary-right"))];
    let stack = Stack { redis, tasks: tasks.clone(), results: results.clone(), server: wrong };
    wait_for_kafka(&stack);
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row("R8", "503, the slowest of 10", stack.all_refused(UNAVAILABLE, 10, REFUSED_WITHIN));
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
}

#[test]
fn r9_out_of_memory_under_load() {
    let kafka = Kafka::shared();
    let mut stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);
    let mut client = stack.redis.client();
    command(&mut client, "CONFIG SET maxmemory 1");
    row("R9", "first 503", stack.until_refused(UNAVAILABLE, REFUSED_WITHIN));
    row("R9", "503, the slowest of 50", stack.all_refused(UNAVAILABLE, 50, AT_ONCE));
    stack.server.wait_ready(false, REFUSED_WITHIN * 2);

    command(&mut client, "CONFIG SET maxmemory 0");
    let back = Instant::now();
    row("R9", "first 200 after", stack.until_served(back, REDIS_BACK_WITHIN));
    row("R9", "ready after", stack.until_ready(back, REDIS_BACK_WITHIN));
    assert_sound(&load.stop(), &[200, 503]);
    stack.assert_healed("R9");
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
    config.env("REDIS_URL", redis_url).env("KAFKA_CONFIG", "sasl.password=canary-kafka");
    if let Some(path) = std::env::var_os("PATH") {
        config.env("PATH", path);
    }
    let mut process = Process::spawn("thousandx config", config, dir.path().join("log"));
    assert!(process.wait_exit(WAIT_MAX).success(), "{}", process.log());
    let text = process.log();
    assert!(text.contains("REDIS_URL"), "{text}");
    text
}

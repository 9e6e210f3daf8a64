//! The network between the server and its dependencies: slow, narrow, silent, resetting, cut. toxiproxy stands in
//! between; where it cannot be had, outside CI, these rows are skipped and say so.

use std::time::{Duration, Instant};

use crate::stack::{Stack, answer, checker, settings};
use crate::support::kafka::Kafka;
use crate::support::redis::RedisServer;
use crate::support::rows::Row;
use crate::support::toxiproxy::{Link, Toxiproxy};
use crate::{
    KAFKA_BACK_WITHIN, REDIS_AT_ONCE, REDIS_BACK, REDIS_BACK_WITHIN, REFUSED_WITHIN, SILENCE_NOTICED_WITHIN, WAIT_MAX,
    timed,
};

const NO_LIMITER: &str = "limiter_unavailable";
const NO_BROKER: &str = "broker_unavailable";
/// Slower than a network, within the budget of a call.
const SLOW: Duration = Duration::from_millis(200);
/// The budget of these servers: more than [`SLOW`], less than a refusal may take.
const BUDGET_MS: &str = "500";
/// Beyond any budget.
const FAR_TOO_SLOW: Duration = Duration::from_secs(2);
/// Narrow, in KB a second: some requests at a time get through.
const NARROW: u32 = 20;

/// What is done to a link.
type Spoil = fn(&Link);

/// A proxy, unless it cannot be had: then every row is skipped.
fn proxy(rows: &mut [&mut Row]) -> Option<Toxiproxy> {
    match Toxiproxy::start() {
        Ok(proxy) => Some(proxy),
        Err(reason) => {
            for row in rows {
                row.skip(reason.clone());
            }
            None
        }
    }
}

/// A server whose Redis is at the other end of a link.
fn linked_to_redis(proxy: &Toxiproxy) -> (Stack, Link) {
    let kafka = Kafka::shared();
    let redis = RedisServer::start_secured();
    let link = proxy.link("redis", redis.port());
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
    let builder = settings(kafka, &tasks, &results, &redis.url_by(link.port()));
    let server = builder.set("REDIS_TIMEOUT_MS", BUDGET_MS).start();
    (Stack { redis, tasks, results, server }, link)
}

#[test]
fn r4_link_to_redis_is_slow_and_narrow() {
    let mut slow = Row::start("R4", "the link to Redis: +200 ms", REDIS_AT_ONCE);
    let mut narrow = Row::start("R4", format!("the link to Redis: {NARROW} KB/s"), REDIS_BACK);
    let mut over = Row::start("R4", "the link to Redis: slower than a call's budget", REDIS_BACK);
    let Some(proxy) = proxy(&mut [&mut slow, &mut narrow, &mut over]) else { return };
    let (mut stack, link) = linked_to_redis(&proxy);
    let _worker = checker(Kafka::shared(), &stack.tasks);

    slow_link(&mut slow, &mut stack, &link, REDIS_BACK_WITHIN);

    link.narrow(NARROW);
    let load = stack.load();
    // Its length is what is waited for: requests of all connections share the link.
    narrow.note("200 or 503 meanwhile, twenty in a row", timed(|| (0..20).for_each(|_| drop(stack.post()))).1);
    link.mend();
    narrow.healed("first 200 after", stack.until_served(Instant::now(), REDIS_BACK_WITHIN));
    narrow.history(&load.stop(), &[200, 503]);
    stack.assert_healed(&mut narrow);

    let load = stack.load();
    link.slow(FAR_TOO_SLOW);
    over.refused("first 503", stack.until_refused(NO_LIMITER, REFUSED_WITHIN * 2));
    over.refused("503, the slowest of 20", stack.all_refused(NO_LIMITER, 20, REFUSED_WITHIN));
    link.mend();
    healed(&mut over, &mut stack, REDIS_BACK_WITHIN);
    over.history(&load.stop(), &[200, 503]);
    stack.assert_healed(&mut over);
}

#[test]
fn r2_r3_link_to_redis_is_silent_reset_and_cut() {
    let mut silent = Row::start("R3", "the link to Redis: a black hole", REDIS_AT_ONCE);
    let mut reset = Row::start("R2", "the link to Redis: every connection is reset", REDIS_BACK);
    let mut cut = Row::start("R2", "the link to Redis: cut, connections are refused", REDIS_BACK);
    let Some(proxy) = proxy(&mut [&mut silent, &mut reset, &mut cut]) else { return };
    let (mut stack, link) = linked_to_redis(&proxy);
    let _worker = checker(Kafka::shared(), &stack.tasks);
    let faults: [(&mut Row, Spoil); 3] =
        [(&mut silent, Link::silence), (&mut reset, Link::reset), (&mut cut, Link::cut)];
    for (row, spoil) in faults {
        let load = stack.load();
        stack.until_served(Instant::now(), WAIT_MAX);
        let in_flight = stack.hold(1_500);
        stack.server.wait_metric("thousandx_in_flight", WAIT_MAX, |count| count >= 1.0);
        spoil(&link);
        row.refused("first 503", stack.until_refused(NO_LIMITER, REFUSED_WITHIN * 2));
        row.refused("503, the slowest of 50", stack.all_refused(NO_LIMITER, 50, REFUSED_WITHIN));
        // It may have been asked for just when the link went.
        let (held, took) = answer(in_flight);
        assert!([200, 503].contains(&held.status), "{}", held.text());
        row.note(&format!("{} for what was in flight (1500 ms of work)", held.status), took);
        link.mend();
        healed(row, &mut stack, REDIS_BACK_WITHIN);
        row.history(&load.stop(), &[200, 503]);
        stack.assert_healed(row);
    }
}

#[test]
fn k2_k3_link_to_kafka_is_slow_narrow_silent_and_cut() {
    let mut slow = Row::start("K3", "the link to Kafka: +200 ms", REFUSED_WITHIN);
    let mut narrow = Row::start("K3", format!("the link to Kafka: {NARROW} KB/s"), KAFKA_BACK_WITHIN);
    let mut silent = Row::start("K3", "the link to Kafka: a black hole", KAFKA_BACK_WITHIN);
    let mut reset = Row::start("K2", "the link to Kafka: every connection is reset", KAFKA_BACK_WITHIN);
    let mut cut = Row::start("K2", "the link to Kafka: cut, connections are refused", KAFKA_BACK_WITHIN);
    let Some(proxy) = proxy(&mut [&mut slow, &mut narrow, &mut silent, &mut reset, &mut cut]) else { return };
    let (kafka, link) = Kafka::start_behind(&proxy);
    let redis = RedisServer::start_secured();
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
    let builder = settings(&kafka, &tasks, &results, &redis.url());
    let server = builder.set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", link.port())).start();
    let mut stack = Stack { redis, tasks, results, server };
    // Beside the link: only the server has to suffer.
    let _worker = checker(&kafka, &stack.tasks);

    slow_link(&mut slow, &mut stack, &link, KAFKA_BACK_WITHIN);

    let load = stack.load();
    link.narrow(NARROW);
    narrow.note("an answer to each meanwhile, ten in a row", timed(|| (0..10).for_each(|_| drop(stack.post()))).1);
    link.mend();
    healed(&mut narrow, &mut stack, KAFKA_BACK_WITHIN);
    narrow.history(&load.stop(), &[200, 503, 504]);
    stack.assert_healed(&mut narrow);

    let faults: [(&mut Row, Spoil); 3] =
        [(&mut silent, Link::silence), (&mut reset, Link::reset), (&mut cut, Link::cut)];
    for (row, spoil) in faults {
        let load = stack.load();
        stack.until_served(Instant::now(), WAIT_MAX);
        spoil(&link);
        row.note("not ready after", timed(|| stack.server.wait_ready(false, SILENCE_NOTICED_WITHIN)).1);
        row.refused("503, the slowest of 50", stack.all_refused(NO_BROKER, 50, REFUSED_WITHIN));
        link.mend();
        healed(row, &mut stack, KAFKA_BACK_WITHIN);
        row.history(&load.stop(), &[200, 503, 504]);
        stack.assert_healed(row);
    }
}

/// Every answer comes, and takes as long as the link does.
fn slow_link(row: &mut Row, stack: &mut Stack, link: &Link, back_within: Duration) {
    link.slow(SLOW);
    let load = stack.load();
    for _ in 0..5 {
        let (answer, took) = stack.post();
        assert_eq!(answer.expect("an answer").status, 200);
        assert!(took >= SLOW, "the link was felt: {took:?}");
        row.note("200 meanwhile", took);
    }
    link.mend();
    row.healed("first 200 after", stack.until_served(Instant::now(), back_within));
    row.history(&load.stop(), &[200]);
    stack.assert_healed(row);
}

/// Service is back, and ready.
fn healed(row: &mut Row, stack: &mut Stack, within: Duration) {
    let back = Instant::now();
    row.healed("first 200 after", stack.until_served(back, within));
    row.healed("ready after", stack.until_ready(back, within));
}

//! One broker of several goes: its partitions get other leaders.

use std::time::{Duration, Instant};

use crate::kafka::many_served;
use crate::stack::{Stack, settings};
use crate::support::kafka::Kafka;
use crate::support::redis::RedisServer;
use crate::support::rows::Row;
use crate::support::server::Worker;
use crate::support::wait_until;
use crate::{KAFKA_BACK_WITHIN, WAIT_MAX, timed};

const BROKERS: i32 = 3;
/// Promised of leaders that move in order: latency only, and no more than this.
const MOVED_WITHIN: Duration = Duration::from_secs(3);

/// The first broker stays, as the only controller and as what the clients are started with.
#[test]
fn k5_leaders_move_between_real_brokers() {
    let mut cluster = Kafka::cluster(BROKERS);
    let (tasks, results) = (cluster[0].topic("tasks", 6), cluster[0].topic("results", 3));
    let _worker = Worker::start(&cluster[0], &tasks, &results);
    let redis = RedisServer::start_secured();
    let server = settings(&cluster[0], &tasks, &results, &redis.url()).start();
    let stack = Stack { redis, tasks, results, server };
    many_served(&stack);
    let (staying, others) = cluster.split_at_mut(1);
    stopped_in_order(&staying[0], &mut others[0], &stack);
    killed(&staying[0], &mut others[1], &stack);
}

fn stopped_in_order(staying: &Kafka, broker: &mut Kafka, stack: &Stack) {
    let mut row = Row::start("K5", "a broker of three is stopped in order and started again", MOVED_WITHIN);
    assert!(leads_some(staying, broker, stack), "there is nothing to move");
    let load = stack.load();
    many_served(stack);
    let (_, took) = timed(|| broker.stop());
    row.note("the end of the broker", took);
    assert!(!leads_some(staying, broker, stack), "it handed nothing over");
    row.note("64 good answers in a row without it", many_served(stack));
    broker.restart();
    row.note("64 good answers in a row with it", many_served(stack));
    let report = load.stop();
    row.healed("slowest answer of the load", report.slowest());
    row.history(&report, &[200]);
    stack.assert_healed(&mut row);
}

/// Nobody is told: its partitions get leaders when its session with the controller is over.
fn killed(staying: &Kafka, broker: &mut Kafka, stack: &Stack) {
    let mut row = Row::start("K5", "a broker of three is killed and started again", KAFKA_BACK_WITHIN);
    assert!(leads_some(staying, broker, stack), "there is nothing to move");
    let load = stack.load();
    many_served(stack);
    broker.kill();
    let dead = Instant::now();
    let moved = wait_until(WAIT_MAX, || (!leads_some(staying, broker, stack)).then(|| dead.elapsed()));
    row.note("its partitions have other leaders", moved.expect("new leaders"));
    many_served(stack);
    row.healed("64 good answers in a row without it, from the kill on", dead.elapsed());
    broker.restart();
    row.note("64 good answers in a row with it", many_served(stack));
    row.history(&load.stop(), &[200, 503, 504]);
    stack.assert_healed(&mut row);
}

/// Whether it leads partitions of both topics.
fn leads_some(staying: &Kafka, broker: &Kafka, stack: &Stack) -> bool {
    staying.led_by(broker, &stack.tasks) > 0 && staying.led_by(broker, &stack.results) > 0
}

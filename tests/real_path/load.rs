//! Many clients at once: every answer is its request's own, the limit holds over two processes, and what was taken is
//! given back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::SOON;
use crate::support::checker::Behaviour;
use crate::support::http::{Raw, post_queue};
use crate::support::load::Load;
use crate::support::server::Server;
use crate::support::stack::Stack;
use crate::support::wait_until;

/// How long the loads last.
const LOAD: Duration = Duration::from_secs(8);

fn assert_idle(stack: &Stack, servers: &[Server]) {
    stack.wait_permits(0, SOON);
    for server in servers {
        server.wait_metric("thousandx_in_flight", SOON, |count| count == 0.0);
    }
}

#[test]
fn two_hundred_connections_get_their_own_answers() {
    let stack = Stack::new();
    let _worker = stack.worker();
    let server = stack.serve().set("RATE_LIMIT_CAPACITY", "1000").start();
    let report = Load::new(server.address()).connections(240).duration(LOAD).run();
    report.assert_sound();
    assert_eq!(report.count(200), report.sent, "{report:?}");
    assert!(report.sent > 1_000 && report.refused == 0, "{report:?}");
    assert_idle(&stack, &[server]);
}

#[test]
fn the_capacity_holds_over_two_processes() {
    const CAPACITY: usize = 10;
    let stack = Stack::new();
    let holds = AtomicU64::new(0);
    let checker = stack.checker(move |_| {
        // 20 to 50 ms, so that tasks end in another order than they came.
        Behaviour::Answer(Duration::from_millis(20 + holds.fetch_add(7, Ordering::Relaxed) % 31))
    });
    let start = || stack.serve().set("RATE_LIMIT_CAPACITY", CAPACITY.to_string()).start();
    let servers = [start(), start()];
    let loads = servers.each_ref().map(|server| Load::new(server.address()).connections(30).duration(LOAD).start());
    let refused = wait_until(SOON, || servers[0].post("{}", SOON).ok().filter(|answer| answer.status == 429))
        .expect("a refusal while sixty clients want ten permits");
    assert_eq!((refused.code().as_deref(), refused.header("retry-after")), (Some("capacity_reached"), Some("1")));
    assert_eq!((&refused.json()["status"], refused.closes()), (&429.into(), false));
    for load in loads {
        let report = load.join();
        report.assert_sound();
        assert!(report.count(200) > 0 && report.count(429) > 0, "{report:?}");
        assert_eq!(report.count(200) + report.count(429), report.sent, "{report:?}");
    }
    let counts = checker.counts();
    assert!(counts.in_flight_max <= CAPACITY, "more tasks at the worker than permits: {counts:?}");
    assert!(counts.in_flight_max >= CAPACITY / 2, "the capacity is used: {counts:?}");
    assert_idle(&stack, &servers);
}

#[test]
fn refusals_wait_for_their_turn_while_others_are_answered() {
    const COUNT: u32 = 6;
    let stack = Stack::new();
    let _checker = stack.checker(|task| match task.body.as_slice() {
        br#"{"held":true}"# => Behaviour::Never,
        _ => Behaviour::Answer(Duration::ZERO),
    });
    let server =
        stack.serve().set("RATE_LIMIT_CAPACITY", "1").set("WORKERS", "1").set("REFUSALS_PER_SECOND", "10").start();
    let held = || server.metric("thousandx_refusals_held_total");
    // On a machine that stands still in between, turns pass unused: then it is done again.
    let took = wait_until(3 * SOON, || {
        let before = held();
        let first = server.post("{}", SOON).expect("an answer");
        stack.wait_permits(0, SOON);
        let mut holder = Raw::connect(server.address());
        holder.send(&post_queue(r#"{"held":true}"#));
        // The holder may itself have been refused, if the set was full a moment ago.
        wait_until(SOON / 10, || (stack.permits() == 1).then_some(()))?;
        let (begin, mut client) = (Instant::now(), Raw::connect(server.address()));
        for _ in 0..COUNT {
            client.send(&post_queue("{}"));
            assert_eq!(client.response(SOON).expect("a refusal").code().as_deref(), Some("capacity_reached"));
        }
        let took = begin.elapsed();
        drop(holder);
        stack.wait_permits(0, SOON);
        // One leaves at once, and before the server has noticed the answer, another one may.
        (first.status == 200 && held() - before >= f64::from(COUNT - 2)).then_some(took)
    });
    let took = took.unwrap_or_else(|| panic!("refusals came at once; {}", server.log()));
    // Each waits for the one before it, 100 ms apart; the first of those may be nearly due.
    assert!(took >= Duration::from_millis(100) * (COUNT - 3), "{took:?}");
    assert_idle(&stack, &[server]);
}

#[test]
fn refusals_for_the_rate_wait_too_and_a_client_may_leave_meanwhile() {
    let stack = Stack::new();
    let _worker = stack.worker();
    let builder = stack.serve().set("RATE_LIMIT_RPS", "1").set("WORKERS", "1").set("REFUSALS_PER_SECOND", "10");
    let server = builder.start();
    let waits = wait_until(3 * SOON, || {
        server.post("{}", SOON).expect("an answer");
        let mut clients: Vec<Raw> = (0..8).map(|_| Raw::connect(server.address())).collect();
        for client in &mut clients {
            client.send(&post_queue("{}"));
        }
        // Those that wait leave with their connections.
        wait_until(Duration::from_millis(200), || (server.metric("thousandx_refusals_held_total") >= 4.0).then_some(()))
    });
    assert!(waits.is_some(), "no refusal waited; {}", server.log());
    assert!(server.metric("thousandx_rejected_total{code=\"rate_exceeded\"}") >= 4.0);
    // The one that asks.
    server.wait_metric("thousandx_connections_open", SOON, |count| count <= 1.0);
    assert_idle(&stack, &[server]);
}

#[test]
fn partitions_added_while_serving_lose_nothing_and_are_used() {
    let stack = Stack::with_partitions(2, 1);
    let _worker = stack.worker();
    // The sample worker asks every 5 s.
    let server = stack.serve().set("KAFKA_NEW_PARTITION_WAIT_MS", "7000").start();
    let load = Load::new(server.address()).connections(2).duration(Duration::from_mins(1)).start();
    stack.kafka.grow_topic(&stack.results, 3);
    stack.kafka.grow_topic(&stack.tasks, 4);
    // Both are in use when the server has made them known and replies have come through each.
    let used = wait_until(3 * SOON, || {
        let every = |topic: &str, partitions| (0..partitions).all(|id| stack.kafka.records(topic, id) > 0);
        (every(&stack.results, 3) && every(&stack.tasks, 4)).then_some(())
    });
    let report = load.stop();
    report.assert_sound();
    assert_eq!(report.count(200), report.sent, "{report:?}");
    assert!(used.is_some(), "not every partition was used; {}", server.log());
    assert_idle(&stack, &[server]);
}

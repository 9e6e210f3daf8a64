//! Starts and ends on real Kafka and real Redis: drain, cut-off, kill -9 of servers and workers.
//!
//! What matters is judged from outside: what every client got, the exit code, and what is left in Redis.

mod support;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::checker::{Behaviour, Checker};
use support::http::{NoResponse, Raw, post_queue};
use support::load::Load;
use support::rows::Row;
use support::server::{Server, Worker};
use support::stack::Stack;
use support::{loopback, wait_until};

/// Anything that has to come at once, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(10);
/// Exit codes of `thousandx::error::StartError`.
const EXIT_SETTINGS: i32 = 64;
const EXIT_UNAVAILABLE: i32 = 69;
const EXIT_CUT_OFF: i32 = 75;

/// Clients whose tasks the worker has, and no answer.
fn waiting_clients(server: &Server, checker: &Checker, count: usize, body: &str) -> Vec<Raw> {
    let before = checker.counts().tasks;
    let mut clients: Vec<Raw> = (0..count).map(|_| Raw::connect(server.address())).collect();
    for client in &mut clients {
        client.send(&post_queue(body));
    }
    let all = wait_until(SOON, || (checker.counts().tasks - before >= count as u64).then_some(()));
    assert!(all.is_some(), "the worker has not got every task: {:?}", checker.counts());
    clients
}

/// The end of a row.
fn row_empty(row: &mut Row, stack: &Stack) {
    let begun = Instant::now();
    stack.wait_permits(0, SOON);
    row.permits(stack.permits() as u64, begun.elapsed());
}

fn is_refused(server: &Server) -> bool {
    TcpStream::connect_timeout(&server.address(), SOON).is_err()
}

// === drain

#[test]
fn a_drain_under_load_fails_no_request() {
    let mut row = Row::start("S1", "SIGTERM under load, with another instance beside it", None);
    let stack = Stack::new();
    let _worker = stack.worker();
    let start = || stack.serve().set("RATE_LIMIT_CAPACITY", "1000").set("DRAIN_DELAY_MS", "1000").start();
    let (mut old, new) = (start(), start());
    let load = Load::new(old.address()).connections(150).after_close(new.address()).duration(6 * SOON).start();
    let answered = r#"thousandx_answers_total{status="2xx"}"#;
    old.wait_metric(answered, SOON, |count| count > 300.0);
    old.sigterm();
    // The delay: not ready any more, and still accepting whoever has not heard of it.
    let unready = wait_until(SOON, || old.get("/readyz?verbose").ok().filter(|answer| answer.status == 503));
    let unready = unready.expect("/readyz turns 503 before the server stops accepting");
    assert!(unready.text().contains("[-] not draining") && unready.closes(), "{}", unready.text());
    assert_eq!(old.get("/livez").expect("an answer").status, 200);
    let status = old.wait_exit(SOON);
    assert_eq!(status.code(), Some(0), "{}", old.log());
    let moved = new.metric(answered);
    new.wait_metric(answered, SOON, |count| count > moved + 300.0);
    let report = load.stop();
    row.history(&report, &[200]);
    assert_eq!(report.refused, 0, "{report:?}");
    row_empty(&mut row, &stack);
}

#[test]
fn a_drain_takes_nothing_new_and_finishes_the_rest() {
    let stack = Stack::new();
    let checker = stack.checker(|_| Behaviour::Answer(Duration::from_secs(3)));
    let mut server = stack.serve().start();
    let mut idle = Raw::connect(server.address());
    idle.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(idle.response(SOON).expect("an answer").status, 200);
    let mut silent = Raw::connect(server.address());
    let mut waiting = waiting_clients(&server, &checker, 5, "1");
    // One more request behind the first, on its way when the drain begins.
    waiting[0].send(&post_queue("2"));

    server.sigterm();
    wait_until(SOON, || is_refused(&server).then_some(())).expect("new connections are refused");
    assert!(idle.is_closed_within(SOON), "an idle connection is closed");
    assert!(silent.is_closed_within(Duration::from_secs(3)), "so is one without a request yet");
    assert!(server.process().exited().is_none(), "the server waits for the others:\n{}", server.log());
    for client in &mut waiting {
        let answer = client.response(SOON).expect("its answer");
        assert_eq!((answer.status, answer.text().as_str(), answer.closes()), (200, "1", true));
        assert!(client.is_closed_within(SOON));
    }
    drop(waiting);
    let begun = Instant::now();
    assert_eq!(server.wait_exit(SOON).code(), Some(0), "{}", server.log());
    assert!(begun.elapsed() < Duration::from_secs(2), "it ends with its last request");
    assert_eq!(stack.permits(), 0, "everything was given back before the end");
}

#[test]
fn when_the_grace_is_over_the_rest_is_told() {
    let mut row = Row::start("S2", "the grace is over, and a second SIGTERM", None);
    row.saw("503 draining × 30");
    let stack = Stack::new();
    let checker = stack.checker(|_| Behaviour::Never);
    let builder = stack.serve().set("KAFKA_GIFT_CODE_TIMEOUT", "60");
    // Once because the grace is short, once because of a second signal: during the grace, and during the delay.
    for (delay_ms, grace_ms, signals) in [("0", "500", 1), ("0", "60000", 2), ("60000", "60000", 2)] {
        let mut server = builder.clone().set("DRAIN_DELAY_MS", delay_ms).set("DRAIN_GRACE_MS", grace_ms).start();
        let mut waiting = waiting_clients(&server, &checker, 10, "{}");
        waiting[0].send(&post_queue("2"));
        assert_eq!(stack.permits(), 10);
        let begun = Instant::now();
        server.sigterm();
        server.process().wait_log("draining", SOON);
        if signals == 2 {
            server.sigterm();
        }
        for client in &mut waiting {
            let answer = client.response(SOON).expect("an answer");
            assert_eq!((answer.status, answer.code().as_deref()), (503, Some("draining")), "{}", answer.text());
            assert_eq!((answer.header("retry-after"), answer.closes()), (Some("1"), true));
        }
        drop(waiting);
        assert_eq!(server.wait_exit(SOON).code(), Some(EXIT_CUT_OFF), "{}", server.log());
        assert!(begun.elapsed() < SOON, "{:?} after {signals} signals", begun.elapsed());
        row.note(&format!("{signals} signals, delay {delay_ms} ms, grace {grace_ms} ms: the end"), begun.elapsed());
        assert_eq!(stack.permits(), 0, "everything was given back before the end");
    }
    row_empty(&mut row, &stack);
}

#[test]
fn answers_on_their_way_when_the_drain_begins_arrive_whole() {
    // Far more than the buffers between client and server hold, in both directions.
    const REQUESTS: usize = 100_000;
    let stack = Stack::new();
    let mut server = stack.serve().set("WRITE_TIMEOUT_MS", "60000").start();
    let mut client = Raw::connect(server.address());
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout can be set");
    // One by one, which fills the server's buffer sooner; it stops reading when its answers are not taken.
    let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
    let asked = (0..REQUESTS).take_while(|_| client.try_send(request).is_ok()).count();
    server.sigterm();
    wait_until(SOON, || is_refused(&server).then_some(())).expect("the drain has begun");
    // The server answers one after the other until it says that it closes; a reset would take away what is on its way.
    let last = (0..asked).map(|_| client.response(SOON).expect("a whole answer")).find(|answer| {
        assert_eq!(answer.status, 200);
        answer.closes()
    });
    assert!(last.is_some(), "an answer says that the connection ends");
    assert_eq!(server.wait_exit(SOON).code(), Some(0), "{}", server.log());
}

#[test]
fn who_gets_a_permit_after_the_end_is_told_as_well() {
    let stack = Stack::new();
    let _checker = stack.checker(|_| Behaviour::Never);
    let mut server = stack.serve().set("REDIS_TIMEOUT_MS", "10000").set("KAFKA_GIFT_CODE_TIMEOUT", "60").start();
    stack.redis.sigstop();
    let mut client = Raw::connect(server.address());
    client.send(&post_queue("{}"));
    server.sigterm();
    server.process().wait_log("draining", SOON);
    server.sigterm();
    wait_until(SOON, || is_refused(&server).then_some(())).expect("the end has begun");
    stack.redis.sigcont();
    let answer = client.response(SOON).expect("an answer");
    assert_eq!((answer.status, answer.code().as_deref()), (503, Some("draining")), "{}", answer.text());
    server.wait_exit(SOON);
    assert_eq!(stack.permits(), 0, "what was granted late was given back");
}

// === kill -9

#[test]
fn permits_of_a_killed_instance_come_back_within_the_lease() {
    const LEASE: Duration = Duration::from_secs(6);
    let mut row = Row::start("S3", "an instance that holds permits is killed (SIGKILL); its lease is 6 s", LEASE);
    row.saw("a reset; 429 and then 200 from the other instance");
    let stack = Stack::new();
    let checker = stack.checker(|seen| match seen.body.as_slice() {
        b"\"hold\"" => Behaviour::Never,
        _ => Behaviour::Answer(Duration::ZERO),
    });
    let builder = stack.serve().set("RATE_LIMIT_CAPACITY", "10");
    let short = builder.clone().set("KAFKA_GIFT_CODE_TIMEOUT", "5");
    let mut victim = short.set("LEASE_MARGIN_MS", "1000").start();
    // The lease of what the other holds is as short, if it were not renewed.
    let survivor = builder.set("KAFKA_GIFT_CODE_TIMEOUT", "30").set("LEASE_MARGIN_MS", "1000").start();
    let mut kept = waiting_clients(&survivor, &checker, 4, "\"hold\"");
    let _lost = waiting_clients(&victim, &checker, 6, "\"hold\"");
    assert_eq!(stack.permits(), 10);

    victim.kill9();
    let killed = Instant::now();
    let back = wait_until(LEASE + SOON, || {
        let answer = survivor.post("1", SOON).expect("the other instance serves");
        let code = answer.code();
        assert!(answer.status == 200 || code.as_deref() == Some("capacity_reached"), "{}", answer.text());
        (stack.permits() == 4).then(|| killed.elapsed())
    })
    .expect("the permits come back");
    assert!(back <= LEASE + Duration::from_millis(1_500), "after {back:?}");
    row.healed("the permits are free", back);
    let more = waiting_clients(&survivor, &checker, 6, "\"hold\"");
    assert_eq!(stack.permits(), 10, "all six are free again");
    drop(more);
    stack.wait_permits(4, SOON);
    for client in &mut kept {
        let early = client.response(Duration::from_millis(1));
        assert!(matches!(early, Err(NoResponse::Timeout(seen)) if seen.is_empty()), "they still wait");
    }
    drop(kept);
    row_empty(&mut row, &stack);
}

#[test]
fn tasks_of_a_killed_worker_go_to_another() {
    let mut row = Row::start("W1", "a worker is killed with tasks of 40 clients", None);
    let stack = Stack::new();
    let server = stack.serve().set("KAFKA_GIFT_CODE_TIMEOUT", "60").set("RATE_LIMIT_CAPACITY", "1000").start();
    let mut victim = stack.worker();
    let load = Load::new(server.address()).connections(40).answer_limit(Duration::from_mins(1)).duration(6 * SOON);
    let load = load.start();
    let delivered = r#"thousandx_replies_total{result="delivered"}"#;
    server.wait_metric(delivered, SOON, |count| count > 200.0);
    // In the middle of its work, without a word to its group.
    victim.process().kill9();
    let answered = server.metric(delivered);
    let _other = Worker::start(stack.kafka, &stack.tasks, &stack.results);
    server.wait_metric(delivered, 3 * SOON, |count| count > answered + 200.0);
    row.history(&load.stop(), &[200]);
    row_empty(&mut row, &stack);
}

/// What one member of a group has answered, the next one does not do again.
#[test]
fn a_group_member_goes_on_where_the_last_one_stopped() {
    const TASKS: u64 = 50;
    let stack = Stack::new();
    // Nothing expires: a worker that starts over would answer all of it again.
    let server = stack.serve().set("KAFKA_GIFT_CODE_TIMEOUT", "60").start();
    let replies = || (0..2).map(|partition| stack.kafka.records(&stack.results, partition)).sum::<i64>();
    for total in [TASKS, 2 * TASKS] {
        let mut member = stack.worker();
        let report = Load::new(server.address()).connections(5).requests_max(TASKS / 5).duration(6 * SOON).run();
        report.assert_sound();
        assert_eq!(report.count(200), TASKS, "{report:?}");
        member.process().sigterm();
        assert!(member.process().wait_exit(SOON).success(), "{}", member.process().log());
        assert_eq!(replies().cast_unsigned(), total, "each task is answered once");
    }
}

// === start

#[test]
fn a_taken_port_ends_the_start_with_the_address() {
    let stack = Stack::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let refuses = |port: u16| {
        let mut server = stack.serve().set("PORT", port.to_string()).spawn();
        assert_eq!(server.wait_exit(SOON).code(), Some(EXIT_UNAVAILABLE), "{}", server.log());
        assert!(server.log().contains(&loopback(port).to_string()), "{}", server.log());
    };
    refuses(port);
    // Also another `serve`: sharing its connections would go unnoticed.
    let first = stack.serve().start();
    refuses(first.address().port());
}

#[test]
fn the_next_server_gets_the_port_at_once() {
    let stack = Stack::new();
    let _worker = stack.worker();
    let mut old = stack.serve().start();
    let port = old.address().port().to_string();
    // Connections that the server closes first keep their port busy for a minute (TIME_WAIT).
    let load = Load::new(old.address()).connections(20).start();
    old.wait_metric(r#"thousandx_answers_total{status="2xx"}"#, SOON, |count| count > 100.0);
    old.sigterm();
    assert_eq!(old.wait_exit(SOON).code(), Some(0), "{}", old.log());
    let again = || stack.serve().set("PORT", &port).start();
    let mut killed = again();
    killed.kill9();
    assert!(again().is_ready());
    load.stop();
}

#[test]
fn bad_settings_are_all_named() {
    let builder = Server::builder().set("KAFKA_GIFT_CODE_TIMEOUT", "soon").set("RATE_LIMIT_CAPACITY", "-1");
    let mut server = builder.set("REPLY_ROUTING", "guess").spawn();
    assert_eq!(server.wait_exit(SOON).code(), Some(EXIT_SETTINGS), "{}", server.log());
    let log = server.log();
    for name in
        ["KAFKA_GIFT_CODE_TIMEOUT", "RATE_LIMIT_CAPACITY", "REPLY_ROUTING", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"]
    {
        assert!(log.contains(name), "{name} is not named in\n{log}");
    }
}

#[test]
fn a_server_that_never_got_ready_ends_in_order() {
    let stack = Stack::new();
    let mut server = stack.serve().set("TASKS_TOPIC", "no-such-topic").start_unready();
    server.wait_ready(false, SOON);
    server.sigterm();
    assert_eq!(server.wait_exit(SOON).code(), Some(0), "{}", server.log());
}

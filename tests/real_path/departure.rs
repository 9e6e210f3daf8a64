//! Clients that leave while they wait give back slot and permit within a second, however they leave; clients that read
//! slowly hold none.

use std::time::Duration;

use crate::SOON;
use crate::support::checker::Behaviour;
use crate::support::http::{Raw, post_queue};
use crate::support::server::Server;
use crate::support::stack::Stack;
use crate::support::wait_until;

/// The promise is one second; the rest is the machine's and the polls'.
const GONE: Duration = Duration::from_millis(1_500);

/// Sends requests from `count` clients, waits until the worker holds them all, lets the clients `leave`, and wants
/// everything given back long before the deadline.
fn assert_given_back(server: &Server, stack: &Stack, held: impl Fn() -> u64, how: &str, leave: &dyn Fn(&mut Raw)) {
    const COUNT: usize = 8;
    let before = held();
    let mut clients: Vec<Raw> = (0..COUNT).map(|_| Raw::connect(server.address())).collect();
    for client in &mut clients {
        client.send(&post_queue("{}"));
    }
    wait_until(SOON, || (held() - before == COUNT as u64).then_some(())).expect("the worker has every task");
    assert_eq!(stack.permits(), COUNT);
    clients.iter_mut().for_each(leave);
    drop(clients);
    let gone = wait_until(GONE, || (stack.permits() == 0).then_some(()));
    assert!(gone.is_some(), "{how}: {} permits are still held", stack.permits());
    server.wait_metric("thousandx_in_flight", GONE, |count| count == 0.0);
}

#[test]
fn a_client_that_leaves_gives_back_what_it_held() {
    let stack = Stack::new();
    let checker = stack.checker(|_| Behaviour::Never);
    let server = stack.serve().set("KAFKA_GIFT_CODE_TIMEOUT", "60").start();
    let check = |how: &str, leave: &dyn Fn(&mut Raw)| {
        assert_given_back(&server, &stack, || checker.counts().tasks, how, leave);
    };
    check("FIN", &|_| {});
    check("RST", &|client| reset_on_close(client));
    check("half-close", &|client| client.half_close());
    let more = [
        ("a pipelined request", post_queue(r#"{"second":1}"#)),
        ("half a request", b"POST /queue HTTP/1.1\r\nhost: a\r\nco".to_vec()),
        ("garbage", b"\0\xffgarbage".to_vec()),
        ("an empty line", b"\r\n".to_vec()),
        ("as much as the server buffers", vec![b'x'; 30_000]),
    ];
    for (what, bytes) in &more {
        check(&format!("{what}, then FIN"), &|client| client.send(bytes));
        check(&format!("{what}, then RST"), &|client| {
            client.send(bytes);
            reset_on_close(client);
        });
    }
    // More than the kernel takes for a server that does not read: no FIN would ever get through behind it.
    check("a flood, then RST", &|client| {
        client.stream().set_nonblocking(true).expect("a socket can be nonblocking");
        let _ = client.try_send(&vec![b'x'; 3_000_000]);
        reset_on_close(client);
    });
    server.wait_metric("thousandx_client_gone_total", SOON, |count| count >= 8.0 * 14.0);
    assert_eq!(server.get("/livez").expect("an answer").status, 200);
}

/// Its close will be a reset.
fn reset_on_close(client: &Raw) {
    socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("linger can be set");
}

#[test]
fn extra_bytes_seen_before_the_client_leaves_hide_nothing() {
    let stack = Stack::new();
    let checker = stack.checker(|_| Behaviour::Never);
    let server = stack.serve().set("KAFKA_GIFT_CODE_TIMEOUT", "60").start();
    let mut client = Raw::connect(server.address());
    client.send(&post_queue("{}"));
    wait_until(SOON, || (checker.counts().tasks == 1).then_some(())).expect("the worker has the task");
    // Byte after byte, each of which the server sees on its own: its metrics are asked in between.
    for byte in post_queue(r#"{"second":1}"#) {
        client.send(&[byte]);
        assert_eq!(server.metric("thousandx_in_flight").to_string(), "1");
    }
    drop(client);
    stack.wait_permits(0, GONE);
    server.wait_metric("thousandx_in_flight", GONE, |count| count == 0.0);
}

#[test]
fn a_slow_reader_holds_no_permit() {
    let stack = Stack::new();
    let _checker = stack.checker(|_| Behaviour::Huge(900_000));
    let server = stack.serve().set("WRITE_TIMEOUT_MS", "30000").start();
    let mut clients: Vec<Raw> = (0..8).map(|_| Raw::connect(server.address())).collect();
    for client in &mut clients {
        let socket = socket2::SockRef::from(client.stream());
        socket.set_recv_buffer_size(32 * 1024).expect("a buffer size can be set");
        client.send(&post_queue("{}"));
    }
    server.wait_metric(r#"thousandx_replies_total{result="delivered"}"#, SOON, |count| count >= 8.0);
    stack.wait_permits(0, SOON);
    server.wait_metric("thousandx_in_flight", SOON, |count| count == 0.0);
    // Nobody has read a byte yet, and every answer is whole.
    for client in &mut clients {
        let answer = client.response(SOON).expect("the answer");
        assert_eq!((answer.status, answer.body.len()), (200, 900_000));
    }
}

//! Replies as large as an operator lets a topic have.

use std::time::Duration;

use crate::SOON;
use crate::support::checker::Behaviour;
use crate::support::stack::Stack;

const REPLY_BYTES: usize = 50_000_000;
/// The fetch, the answer and what allocators keep: the reply a few times over.
const RISE_MAX: f64 = 8.0 * 50e6;

#[test]
fn a_reply_of_50_mb_arrives_and_the_reader_goes_on() {
    let mut stack = Stack::with_partitions(1, 1);
    stack.results = format!("{}-huge", stack.results);
    stack.kafka.create_topic_with(&stack.results, 1, &[("max.message.bytes", "60000000")]);
    let _worker = stack.checker(|seen| match &seen.body[..] {
        b"{\"do\":\"huge\"}" => Behaviour::Huge(REPLY_BYTES),
        _ => Behaviour::Answer(Duration::ZERO),
    });
    let server = stack.serve().set("KAFKA_GIFT_CODE_TIMEOUT", "10").start();
    let resident = || server.metric("process_resident_memory_bytes");
    let before = resident();
    for _ in 0..3 {
        let answer = server.post(r#"{"do":"huge"}"#, 2 * SOON).expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, REPLY_BYTES));
        assert_eq!(server.post("1", SOON).expect("an answer").text(), "1");
    }
    let rise = resident() - before;
    assert!(rise < RISE_MAX, "{rise} bytes more after three replies of {REPLY_BYTES}");
}

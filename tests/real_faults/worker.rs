//! No worker, and a worker that stops.

use std::time::{Duration, Instant};

use crate::stack::{DEADLINE, Stack};
use crate::support::kafka::Kafka;
use crate::support::rows::Row;
use crate::support::server::Worker;
use crate::{KAFKA_BACK_WITHIN, timed};

/// Promise P1: at most so long after the deadline.
const LATE_MAX: Duration = Duration::from_secs(1);

#[test]
fn w1_no_worker_then_one_that_is_killed() {
    let mut row = Row::start("W1", "no worker, then one that is killed and followed by another", KAFKA_BACK_WITHIN * 2);
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    let ((answers, _), took) = timed(|| {
        let waiting: Vec<_> = (0..20).map(|_| stack.hold(0)).collect();
        let answers: Vec<_> = waiting.into_iter().map(crate::stack::answer).collect();
        let slowest = answers.iter().map(|(_, took)| *took).max().unwrap_or_default();
        (answers, slowest)
    });
    for (answer, took) in &answers {
        assert_eq!((answer.status, answer.code().as_deref()), (504, Some("reply_timeout")));
        assert!((DEADLINE..DEADLINE + LATE_MAX).contains(took), "{took:?}");
    }
    row.note("504 without a worker, the slowest of 20", took);
    row.note("idle after", stack.until_idle(LATE_MAX));

    let mut worker = Worker::start(kafka, &stack.tasks, &stack.results);
    stack.assert_healed(&mut row);
    let load = stack.load();
    worker.process().kill9();
    // In one group: the second takes over when the first one's session is over (6 s).
    let back = Instant::now();
    let _second = Worker::start(kafka, &stack.tasks, &stack.results);
    row.healed("first 200 from a second worker", stack.until_served(back, KAFKA_BACK_WITHIN * 2));
    let report = load.stop();
    row.note("slowest answer of the load", report.slowest());
    row.history(&report, &[200, 504]);
    stack.assert_healed(&mut row);
}

//! The state machine driven by hand: a fake Redis is a reply written down here, time is a number added to a start.

use super::gate::{CONTENDED, FULL_RECHECK, LEFT_EVERY, LEFT_TO_OTHERS};
use super::*;

mod histories;

const PATIENCE: Duration = Duration::from_millis(250);

/// A batcher of two permits with a working connection.
struct Bench {
    batcher: Batcher,
    batch: Batch,
    metrics: Arc<RedisMetrics>,
    now: Instant,
}

fn id(n: usize) -> PermitId {
    let mut text = [b'0'; 36];
    text.copy_from_slice(format!("{n:036}").as_bytes());
    PermitId::new(text)
}

fn granted(granted: usize, size: u64) -> Reply {
    Reply { granted, size, now_ms: 1, released: 0, reinserted: 0, why: Why::NotRefused }
}

impl Bench {
    fn new() -> Self {
        let metrics = Arc::<RedisMetrics>::default();
        let mut batcher = Batcher::new(2, PATIENCE, Arc::clone(&metrics));
        batcher.start();
        Self { batcher, batch: Batch::default(), metrics, now: Instant::now() }
    }

    fn enqueue(&mut self, n: usize) -> Result<usize, Refused> {
        self.batcher.enqueue(id(n), self.now)
    }

    fn build(&mut self) -> &Batch {
        self.batcher.build(&mut self.batch, self.now);
        &self.batch
    }

    fn settle(&mut self, reply: Reply) {
        self.batcher.settle(&self.batch, &reply, self.now);
    }

    fn answer(&mut self, key: usize) -> Poll<Result<(), Refused>> {
        self.batcher.poll_answer(key, &mut Context::from_waker(Waker::noop()))
    }

    /// A held permit with the id `n`.
    fn hold(&mut self, n: usize) -> usize {
        let key = self.enqueue(n).unwrap();
        self.build();
        self.settle(granted(1, 1));
        assert_eq!(self.answer(key), Poll::Ready(Ok(())));
        key
    }
}

#[test]
fn the_first_granted_are_the_first_that_came() {
    let mut bench = Bench::new();
    let keys: Vec<_> = (0..3).map(|n| bench.enqueue(n).unwrap()).collect();
    assert_eq!(bench.build().acquires, [id(0), id(1), id(2)]);
    bench.settle(Reply { why: Why::Full, ..granted(2, 2) });
    assert_eq!(bench.answer(keys[0]), Poll::Ready(Ok(())));
    assert_eq!(bench.answer(keys[1]), Poll::Ready(Ok(())));
    assert_eq!(bench.answer(keys[2]), Poll::Ready(Err(Refused::CapacityReached)));
    assert_eq!((bench.metrics.granted.get(), bench.metrics.held.get()), (2, 2));
}

#[test]
fn a_full_set_refuses_without_a_call_until_the_recheck() {
    let mut bench = Bench::new();
    bench.enqueue(0).unwrap();
    bench.build();
    bench.settle(granted(1, 2));
    assert_eq!(bench.enqueue(1), Err(Refused::CapacityReached));
    assert!(!bench.batcher.has_work());
    bench.now += FULL_RECHECK;
    assert!(bench.enqueue(1).is_ok());
}

#[test]
fn a_reply_with_room_opens_a_full_set_at_once() {
    let mut bench = Bench::new();
    let key = bench.enqueue(0).unwrap();
    bench.build();
    bench.settle(granted(1, 2));
    bench.batcher.release(key);
    bench.build();
    bench.settle(granted(0, 1));
    assert!(bench.enqueue(1).is_ok());
}

#[test]
fn whoever_gave_back_can_ask_again_at_once() {
    let mut bench = Bench::new();
    let keys = [bench.enqueue(0).unwrap(), bench.enqueue(1).unwrap()];
    bench.build();
    bench.settle(granted(2, 2));
    assert_eq!(bench.enqueue(2), Err(Refused::CapacityReached));

    bench.batcher.release(keys[0]);
    let next = bench.enqueue(3).unwrap();
    assert_eq!(bench.enqueue(4), Err(Refused::CapacityReached), "one was given back, and one asked for");
    let call = bench.build();
    assert_eq!((&call.releases[..], &call.acquires[..]), (&[id(0)][..], &[id(3)][..]));
    assert_eq!(bench.enqueue(5), Err(Refused::CapacityReached));
    bench.settle(granted(1, 2));
    assert_eq!(bench.answer(next), Poll::Ready(Ok(())));

    // Its release is under way.
    bench.batcher.release(keys[1]);
    bench.build();
    let next = bench.enqueue(6).unwrap();
    assert_eq!(bench.enqueue(7), Err(Refused::CapacityReached));
    bench.settle(granted(0, 1));
    assert_eq!(bench.build().acquires, [id(6)]);
    bench.settle(granted(1, 2));
    assert_eq!(bench.answer(next), Poll::Ready(Ok(())));
}

#[test]
fn what_is_given_back_makes_no_room_where_that_is_not_what_is_missing() {
    for (why, refusal) in [(Why::Rate, Refused::RateExceeded), (Why::OutOfMemory, Refused::Unavailable)] {
        let mut bench = Bench::new();
        let held = bench.hold(0);
        bench.enqueue(1).unwrap();
        bench.build();
        bench.settle(Reply { why, ..granted(0, 1) });
        bench.batcher.release(held);
        assert_eq!(bench.enqueue(2), Err(refusal));
    }
}

/// Two permits, and a third client that Redis has refused; the keys of the two.
fn contended(bench: &mut Bench) -> Vec<usize> {
    let mut keys: Vec<_> = (0..3).map(|n| bench.enqueue(n).unwrap()).collect();
    bench.build();
    bench.settle(Reply { why: Why::Full, ..granted(2, 2) });
    keys.pop();
    keys
}

/// Gives a permit back and asks for another one at once; whether it may be asked for.
fn is_its_own(bench: &mut Bench, keys: &mut Vec<usize>, n: usize) -> bool {
    bench.batcher.release(keys.remove(0));
    let own = bench.enqueue(n);
    assert_eq!(bench.enqueue(1_000), Err(Refused::CapacityReached), "one given back is one asked for at most");
    bench.build();
    assert_eq!(bench.enqueue(1_000), Err(Refused::CapacityReached), "also while its release is under way");
    bench.settle(if own.is_ok() { granted(1, 2) } else { granted(0, 1) });
    // Once Redis has it, it is anybody's.
    keys.push(own.unwrap_or_else(|_| {
        let key = bench.enqueue(n).expect("the set is not full");
        bench.build();
        bench.settle(granted(1, 2));
        key
    }));
    own.is_ok()
}

#[test]
fn with_more_clients_than_permits_one_is_left_to_others_now_and_then() {
    let mut bench = Bench::new();
    let mut keys = contended(&mut bench);
    // Many in little time: by their number.
    let own: Vec<_> = (3..3 + 2 * LEFT_TO_OTHERS).map(|n| is_its_own(&mut bench, &mut keys, n)).collect();
    let left: Vec<_> = (0..own.len()).filter(|index| !own[*index]).collect();
    assert_eq!(left, [0, LEFT_TO_OTHERS - 1, 2 * LEFT_TO_OTHERS - 1]);
    // Few in much time: by the time.
    for n in 0..5 {
        bench.now += LEFT_EVERY;
        bench.build();
        bench.settle(Reply { why: Why::Full, ..granted(0, 2) });
        assert!(!is_its_own(&mut bench, &mut keys, 100 + n), "left to others");
    }
}

#[test]
fn when_nobody_was_refused_for_a_while_nothing_is_left_to_others() {
    let mut bench = Bench::new();
    let mut keys = contended(&mut bench);
    bench.now += CONTENDED;
    bench.build();
    bench.settle(granted(0, 2));
    for n in 3..3 + 2 * LEFT_TO_OTHERS {
        assert!(is_its_own(&mut bench, &mut keys, n));
    }
}

#[test]
fn with_as_many_clients_as_permits_nothing_is_left_to_others() {
    let mut bench = Bench::new();
    let mut keys: Vec<_> = (0..2).map(|n| bench.enqueue(n).unwrap()).collect();
    bench.build();
    bench.settle(granted(2, 2));
    for n in 0..2 * LEFT_TO_OTHERS {
        bench.batcher.release(keys.remove(0));
        keys.push(bench.enqueue(2 + n).expect("its own"));
        bench.build();
        bench.settle(granted(1, 2));
    }
}

#[test]
fn a_released_id_is_not_renewed() {
    let mut bench = Bench::new();
    let (first, _second) = (bench.hold(0), bench.hold(1));
    bench.batcher.renew_held();
    bench.batcher.release(first);
    let batch = bench.build();
    assert_eq!((&batch.releases[..], &batch.renewals[..]), (&[id(0)][..], &[id(1)][..]));
}

#[test]
fn a_failed_call_refuses_compensates_and_releases_again() {
    let mut bench = Bench::new();
    let held = bench.hold(0);
    bench.batcher.release(held);
    let key = bench.enqueue(1).unwrap();
    bench.build();
    bench.batcher.fail(&bench.batch);
    bench.batcher.stop();
    assert_eq!(bench.answer(key), Poll::Ready(Err(Refused::Unavailable)));
    assert_eq!(bench.enqueue(2), Err(Refused::Unavailable), "down: no waiting");
    assert!(bench.batcher.is_recovering());
    assert_eq!(bench.build().releases, [id(0), id(1)]);
    bench.settle(granted(0, 0));
    assert_eq!(bench.enqueue(2), Err(Refused::Unavailable), "a reply alone does not end the recovery");
    assert_eq!(bench.metrics.permit_missing.get(), 0, "an id in doubt may be missing");
    assert_eq!((bench.metrics.compensations.get(), bench.metrics.release_deferred.get()), (1, 1));
}

#[test]
fn a_missing_id_is_counted_on_its_first_release() {
    let mut bench = Bench::new();
    let held = bench.hold(0);
    bench.batcher.release(held);
    bench.build();
    bench.settle(granted(0, 0));
    assert_eq!(bench.metrics.permit_missing.get(), 1);
}

#[test]
fn a_future_dropped_in_any_state_leaves_nothing() {
    let mut bench = Bench::new();
    let queued = bench.enqueue(0).unwrap();
    bench.batcher.abandon(queued);
    assert!(bench.build().acquires.is_empty(), "never sent");

    let sent = bench.enqueue(1).unwrap();
    bench.build();
    bench.batcher.abandon(sent);
    bench.settle(granted(1, 1));
    assert_eq!(bench.build().releases, [id(1)], "granted to nobody: given back");
    bench.settle(Reply { released: 1, ..granted(0, 0) });

    let unread = bench.enqueue(2).unwrap();
    bench.build();
    bench.settle(granted(1, 1));
    bench.batcher.abandon(unread);
    assert_eq!(bench.build().releases, [id(2)], "granted and not read: given back");
    bench.settle(Reply { released: 1, ..granted(0, 0) });

    let refused = bench.enqueue(3).unwrap();
    bench.build();
    bench.settle(Reply { why: Why::Stale, ..granted(0, 0) });
    bench.batcher.abandon(refused);
    assert!(bench.batcher.entries.is_empty());
    assert!(bench.batcher.is_flushed());
    assert_eq!(bench.metrics.held.get(), 0);
}

#[test]
fn an_abandoned_acquire_of_a_failed_call_is_compensated_too() {
    let mut bench = Bench::new();
    let key = bench.enqueue(0).unwrap();
    bench.build();
    bench.batcher.abandon(key);
    bench.batcher.fail(&bench.batch);
    bench.batcher.stop();
    assert!(bench.batcher.entries.is_empty());
    assert_eq!(bench.build().releases, [id(0)]);
}

#[test]
fn an_acquire_that_calls_left_behind_for_too_long_is_refused_not_sent() {
    let one_more_than_fit = |waited: Duration| {
        let mut bench = Bench::new();
        let keys: Vec<_> = (0..=BATCH_MAX).map(|n| bench.enqueue(n).unwrap()).collect();
        bench.now += waited / 2;
        bench.build();
        bench.settle(granted(1, 1));
        bench.now += waited / 2;
        bench.build();
        (bench.batch.acquires.len(), bench.answer(keys[BATCH_MAX]))
    };
    assert_eq!(one_more_than_fit(PATIENCE), (1, Poll::Pending));
    let too_long = PATIENCE + Duration::from_millis(2);
    assert_eq!(one_more_than_fit(too_long), (0, Poll::Ready(Err(Refused::Unavailable))));
}

#[test]
fn an_acquire_is_not_too_late_because_its_shard_did_not_run() {
    let mut bench = Bench::new();
    bench.hold(0);
    bench.now += Duration::from_millis(1);
    bench.enqueue(1).unwrap();
    bench.now += PATIENCE + Duration::from_millis(1);
    assert_eq!(bench.build().acquires, [id(1)]);
}

#[test]
fn a_call_has_a_bound_and_the_rest_is_the_next_one() {
    let mut bench = Bench::new();
    for n in 0..=BATCH_MAX {
        bench.enqueue(n).unwrap();
    }
    assert_eq!(bench.build().acquires.len(), BATCH_MAX);
    bench.settle(Reply { why: Why::Full, ..granted(2, 2) });
    assert_eq!(bench.build().acquires, [id(BATCH_MAX)]);
}

#[test]
fn renewals_walk_all_held_ids_in_slices() {
    let mut bench = Bench::new();
    let held = 2 * BATCH_MAX + 5;
    for n in 0..held {
        bench.enqueue(n).unwrap();
    }
    while bench.batcher.has_work() {
        let asked = bench.build().acquires.len();
        bench.settle(granted(asked, 1));
    }
    bench.batcher.renew_held();
    let mut renewed = Vec::new();
    while bench.batcher.has_work() {
        let slice = bench.build().renewals.clone();
        assert!(slice.len() <= BATCH_MAX);
        renewed.extend(slice);
        bench.settle(granted(0, 1));
    }
    assert_eq!(renewed, (0..held).map(id).collect::<Vec<_>>());
}

#[test]
fn queues_are_bounded() {
    let mut bench = Bench::new();
    for n in 0..WAITING_MAX {
        bench.enqueue(n).unwrap();
    }
    assert_eq!(bench.enqueue(0), Err(Refused::Unavailable));
    let ids: Vec<_> = (0..DEFERRED_RELEASES_MAX + 3).map(id).collect();
    bench.batcher.fail(&Batch { releases: ids, ..Batch::default() });
    assert_eq!(bench.batcher.retried.len(), DEFERRED_RELEASES_MAX);
    assert_eq!(bench.metrics.release_left.get(), 3);
}

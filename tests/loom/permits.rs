//! What is counted: permits (and connections, by the same counter), the rate, the bytes of arriving bodies, under every
//! interleaving that `check` allows.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;
use thousandx_loom::budget::ByteBudget;
use thousandx_loom::check;
use thousandx_loom::counter::Counter;
use thousandx_loom::rate::Rate;

/// Three threads, two permits: at most two hold one at any time, and all are free at the end.
#[test]
fn never_exceeds_the_capacity() {
    check(|| {
        let counter = Arc::new(Counter::new(2));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let counter = Arc::clone(&counter);
                thread::spawn(move || take_and_give_back(&counter))
            })
            .collect();
        take_and_give_back(&counter);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(counter.in_use(), 0);
    });
}

/// A thread that tries to take a permit, and keeps it.
fn taker(counter: &Arc<Counter>) -> thread::JoinHandle<bool> {
    let counter = Arc::clone(counter);
    thread::spawn(move || counter.acquire())
}

/// With one permit and two takers that keep it, exactly one has it.
#[test]
fn gives_the_last_permit_once() {
    check(|| {
        let counter = Arc::new(Counter::new(1));
        let taker = taker(&counter);
        let mine = counter.acquire();
        let theirs = taker.join().unwrap();
        assert!(mine ^ theirs, "one permit, two winners or none");
    });
}

/// A permit that is given back while another thread tries is either seen or not; it is never lost.
#[test]
fn a_released_permit_can_be_taken_again() {
    check(|| {
        let counter = Arc::new(Counter::new(1));
        assert!(counter.acquire());
        let taker = taker(&counter);
        counter.release();
        let taken = taker.join().unwrap();
        assert_eq!(counter.in_use(), u32::from(taken));
        assert!(taken || counter.acquire(), "free again");
    });
}

/// A refusal takes nothing, not even for a moment: whoever comes when the last permit has been given back is refused
/// only if another one has it.
#[test]
fn a_refusal_does_not_make_another_one() {
    check(|| {
        let counter = Arc::new(Counter::new(1));
        assert!(counter.acquire());
        let taker = taker(&counter);
        counter.release();
        let mine = counter.acquire();
        let theirs = taker.join().unwrap();
        assert!(mine ^ theirs, "one permit was free, and one has it");
    });
}

/// The last token of the rate is given once, and is not lost.
#[test]
fn gives_the_last_token_once() {
    check(|| {
        let rate = Arc::new(Rate::new(1));
        let other = Arc::clone(&rate);
        let taker = thread::spawn(move || other.take(Duration::ZERO));
        let mine = rate.take(Duration::ZERO);
        let theirs = taker.join().unwrap();
        assert!(mine ^ theirs, "one token, two winners or none");
    });
}

/// Of two bodies that do not fit together one is taken, whole or not at all, and both are given back.
#[test]
fn the_budget_is_never_exceeded() {
    check(|| {
        let budget = Arc::new(ByteBudget::new(10));
        let other = Arc::clone(&budget);
        let thread = thread::spawn(move || take_six(&other));
        take_six(&budget);
        thread.join().unwrap();
        assert_eq!(budget.used(), 0);
    });
}

/// A body that is refused takes nothing, not even for a moment: what still fits beside the taken ones gets in.
#[test]
fn a_body_that_is_refused_makes_no_other_refusal() {
    check(|| {
        let budget = Arc::new(ByteBudget::new(10));
        let mut body = budget.arriving();
        assert!(body.add(6));
        let other = Arc::clone(&budget);
        let refused = thread::spawn(move || take_six(&other));
        assert!(body.add(4), "four of ten were free all the time");
        assert!(!refused.join().unwrap());
    });
}

fn take_six(budget: &ByteBudget) -> bool {
    let mut body = budget.arriving();
    let taken = body.add(6);
    let used = budget.used();
    assert!(used == 6 || used == 10 || (used == 0 && !taken), "{used}");
    taken
}

fn take_and_give_back(counter: &Counter) {
    if counter.acquire() {
        assert!(counter.in_use() <= 2);
        counter.release();
    }
}

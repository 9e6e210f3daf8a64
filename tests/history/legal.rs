//! Histories of a simulated semaphore are accepted, whatever their shape; and on short ones the fast judge says what an
//! exhaustive search says.

use std::fmt::Write;

use proptest::prelude::*;
use thousandx_history::semaphore::{Flaw, Hold, Usage, Window, judge};
use thousandx_history::{check, event, search};

/// One client's request: when it begins, and how long each part of it takes.
#[derive(Debug, Clone)]
struct Plan {
    start: u64,
    to_acquire: u64,
    to_take: u64,
    to_reply: u64,
    to_release: u64,
    to_return: u64,
    leaves: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let step = || 1..40u64;
    (0..400u64, step(), step(), step(), step(), step(), prop::bool::weighted(0.1)).prop_map(
        |(start, to_acquire, to_take, to_reply, to_release, to_return, leaves)| Plan {
            start,
            to_acquire,
            to_take,
            to_reply,
            to_release,
            to_return,
            leaves,
        },
    )
}

/// What a semaphore of this capacity makes of the plans, as records. Times are in µs of the history.
fn simulate(capacity: usize, plans: &[Plan]) -> String {
    let mut text =
        format!(r#"{{"t":0,"who":"driver","event":"start","capacity":{capacity},"lease_ms":900,"release_ms":1}}"#);
    let mut order: Vec<usize> = (0..plans.len()).collect();
    order.sort_by_key(|number| plans[*number].start + plans[*number].to_acquire);
    let mut released: Vec<u64> = Vec::new();
    for number in order {
        let plan = &plans[number];
        let mut record = |t: u64, event: &str, more: &str| {
            let t = t * 1_000;
            let _ = write!(text, "\n{{\"t\":{t},\"who\":\"x\",\"event\":\"{event}\",\"id\":\"{number}\"{more}}}");
        };
        record(plan.start, "call", r#","deadline_ms":4000"#);
        let acquire = plan.start + plan.to_acquire;
        released.retain(|t| *t > acquire);
        if released.len() >= capacity {
            record(acquire + plan.to_return, "return", r#","status":429,"code":"capacity_reached""#);
            continue;
        }
        let take = acquire + plan.to_take;
        let reply = take + plan.to_reply;
        let release = reply + plan.to_release;
        released.push(release);
        record(take, "take", "");
        record(reply, "reply", "");
        let end = release + plan.to_return;
        if plan.leaves {
            record(end, "leave", "");
        } else {
            record(end, "return", &format!(r#","status":200,"answer":"{number}""#));
        }
    }
    text + "\n{\"t\":10000000000,\"who\":\"limiter\",\"event\":\"permits\",\"size\":0}"
}

fn window(from: std::ops::Range<u64>) -> impl Strategy<Value = Window> {
    (from, 0..6u64).prop_map(|(from, length)| Window { from, to: from + length })
}

fn hold() -> impl Strategy<Value = Hold> {
    (window(0..12), 0..6u64, 0..6u64, prop::bool::weighted(0.8)).prop_map(|(acquire, gap, length, certain)| {
        let from = acquire.from + gap;
        let release = Window { from, to: (from + length).max(acquire.to) };
        if certain {
            Hold { acquire, release, certain }
        } else {
            let (from, to) = (acquire.from, release.to);
            Hold { acquire: Window { from, to }, release: Window { from, to }, certain }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_semaphore_does_is_accepted(capacity in 1..6usize, plans in prop::collection::vec(plan(), 0..120)) {
        let text = simulate(capacity, &plans);
        let report = check(event::parse("simulated", &text).expect("records")).expect("a history");
        prop_assert!(report.is_clean(), "{report:?}\n{text}");
        prop_assert!(report.held_max <= capacity);
    }

    #[test]
    fn one_permit_fewer_than_were_held_is_refuted(plans in prop::collection::vec(plan(), 4..60)) {
        let text = simulate(1_000, &plans);
        let events = event::parse("simulated", &text).expect("records");
        let held = check(events).expect("a history").held_max;
        prop_assume!(held > 1);
        let fewer = text.replace(r#""capacity":1000"#, &format!(r#""capacity":{}"#, held - 1));
        let report = check(event::parse("simulated", &fewer).expect("records")).expect("a history");
        prop_assert!(report.breaks("P3"), "{report:?}");
    }

    #[test]
    fn the_fast_judge_agrees_with_the_search_of_all_orders(
        capacity in 1..4usize,
        holds in prop::collection::vec(hold(), 0..7),
        refusals in prop::collection::vec(window(0..16), 0..4),
    ) {
        let usage = Usage { capacity, holds, refusals };
        let truth = search::is_allowed(&usage).expect("short enough");
        let judgement = judge(&usage);
        prop_assert!(judgement.decided);
        prop_assert_eq!(judgement.flaws.is_empty(), truth, "{:?}", judgement);
        if !truth {
            // Each reason given is one: without what it names, it is gone.
            for flaw in &judgement.flaws {
                prop_assert!(names_what_is_there(&usage, flaw));
            }
        }
    }
}

fn names_what_is_there(usage: &Usage, flaw: &Flaw) -> bool {
    match flaw {
        Flaw::TooMany { holds, .. } => {
            holds.len() > usage.capacity && holds.iter().all(|hold| *hold < usage.holds.len())
        }
        Flaw::Room { refusal, held_max } => *refusal < usage.refusals.len() && *held_max < usage.capacity,
        Flaw::NoOrder => true,
    }
}

//! The plans of scripts/chaos.sh: what a seed promises. The run itself is `driver.rs`.

mod plan;

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::time::Duration;

use plan::{Fault, Plan, QUIET};

const LENGTH: Duration = Duration::from_mins(3);

#[test]
fn a_seed_is_a_plan() {
    for seed in 0..50 {
        assert_eq!(Plan::new(seed, LENGTH), Plan::new(seed, LENGTH));
        assert_ne!(Plan::new(seed, LENGTH).steps, Plan::new(seed + 1, LENGTH).steps);
    }
}

#[test]
fn a_longer_plan_begins_as_the_shorter_one() {
    let (short, long) = (Plan::new(7, LENGTH), Plan::new(7, LENGTH * 5));
    assert_eq!(long.steps[..short.steps.len()], short.steps);
    assert!(long.steps.len() > 4 * short.steps.len());
}

#[test]
fn faults_come_one_at_a_time_and_leave_time_to_heal() {
    for seed in 0..200 {
        let plan = Plan::new(seed, LENGTH);
        for pair in plan.steps.windows(2) {
            assert!(pair[0].at + pair[0].lasts <= pair[1].at, "{plan}");
        }
        let last = plan.steps.last().expect("a fault");
        assert!(last.at + last.lasts + QUIET <= plan.length, "{plan}");
    }
}

#[test]
fn every_kind_comes_within_three_minutes() {
    for seed in 0..200 {
        let plan = Plan::new(seed, LENGTH);
        let kinds: BTreeSet<_> = plan.steps.iter().map(|step| format!("{:?}", discriminant(&step.fault))).collect();
        assert_eq!(kinds.len(), 11, "{plan}");
    }
    assert!(Plan::new(1, LENGTH).steps.iter().any(|step| step.fault == Fault::RedisFlushAll));
}

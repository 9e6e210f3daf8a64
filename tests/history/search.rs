//! Tries all orders of a short history (Wing and Gong's search with Lowe's memory of the sets that led nowhere): what
//! [`crate::sweep`] cannot settle, and the measure of it in the tests.

use std::collections::HashSet;

use crate::semaphore::{Usage, Window};

/// Operations that fit one set; a hold is two.
const OPERATIONS_MAX: usize = 128;
/// Sets that are looked at: some seconds.
const SETS_MAX: usize = 2_000_000;

#[derive(Debug, Clone, Copy)]
enum Operation {
    Acquire {
        certain: bool,
    },
    /// Of the acquire with this number.
    Release {
        acquire: usize,
    },
    Refuse,
}

/// Whether some order is a semaphore's; `None` when the history is too long to tell.
#[must_use]
pub fn is_allowed(usage: &Usage) -> Option<bool> {
    let mut operations: Vec<(Operation, Window)> = Vec::new();
    for hold in &usage.holds {
        let acquire = operations.len();
        operations.push((Operation::Acquire { certain: hold.certain }, hold.acquire));
        operations.push((Operation::Release { acquire }, hold.release));
    }
    operations.extend(usage.refusals.iter().map(|window| (Operation::Refuse, *window)));
    if operations.len() > OPERATIONS_MAX {
        return None;
    }
    // Sets of operations that have happened, in some order that is a semaphore's.
    let mut seen: HashSet<u128> = HashSet::from([0]);
    let mut open: Vec<u128> = vec![0];
    while let Some(done) = open.pop() {
        let last = last_moment(&operations, done);
        let Some(last) = last else { return Some(true) };
        for next in 0..operations.len() {
            let set = done | 1 << next;
            if set != done && may_follow(usage.capacity, &operations, done, next, last) && seen.insert(set) {
                if seen.len() > SETS_MAX {
                    return None;
                }
                open.push(set);
            }
        }
    }
    Some(false)
}

/// The moment by which some operation that is still to happen has to; `None`: everything has happened that must.
fn last_moment(operations: &[(Operation, Window)], done: u128) -> Option<u64> {
    let must = |(number, (operation, window)): (usize, &(Operation, Window))| {
        let is_due = match operation {
            Operation::Acquire { certain } => *certain,
            Operation::Release { acquire } => done >> acquire & 1 == 1,
            Operation::Refuse => true,
        };
        (is_due && done >> number & 1 == 0).then_some(window.to)
    };
    operations.iter().enumerate().filter_map(must).min()
}

/// Whether an operation can be the next one: nothing has to be before it, its own window is not over, the semaphore
/// allows it.
fn may_follow(capacity: usize, operations: &[(Operation, Window)], done: u128, next: usize, last: u64) -> bool {
    let (operation, window) = operations[next];
    let is_done = |number: usize| done >> number & 1 == 1;
    let now = (0..operations.len()).filter(|number| is_done(*number)).map(|number| operations[number].1.from).max();
    if window.from > last || window.to < now.unwrap_or(0) {
        return false;
    }
    let held: i64 = (0..operations.len())
        .filter(|number| is_done(*number))
        .map(|number| match operations[number].0 {
            Operation::Acquire { .. } => 1,
            Operation::Release { .. } => -1,
            Operation::Refuse => 0,
        })
        .sum();
    let is_full = usize::try_from(held).is_ok_and(|held| held >= capacity);
    match operation {
        Operation::Acquire { .. } => !is_full,
        Operation::Release { acquire } => is_done(acquire),
        Operation::Refuse => is_full,
    }
}

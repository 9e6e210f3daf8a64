//! How the kernel shares the cores among our threads and others.
//!
//! Under the kernel's usual policy a thread that wakes up takes the core from the one that runs there. Where server,
//! worker and broker share cores, each then wakes for a record or two: much switching, small batches. Under
//! `SCHED_BATCH` (sched(7)) a thread that wakes waits for its turn, and finds more to do when it comes; on a core that
//! is free it runs at once, as ever. The price: programs under the usual policy still take the core from ours, and ours not
//! from them. BENCHMARKS.md has what it gives, and what it costs beside busy neighbours.
#![allow(unsafe_code, reason = "sched_setscheduler(2) has no wrapper that leaves the niceness alone")]

use std::io;

use crate::config::Scheduling;

/// Asks the kernel for the policy, for this thread and those that it starts from now on. Never fails: without it the
/// same work is done, at a higher price.
pub fn apply(scheduling: Scheduling) {
    match scheduling {
        Scheduling::Inherit => {}
        Scheduling::Batch => match become_batch() {
            Ok(true) => tracing::debug!("scheduled as batch work"),
            Ok(false) => tracing::info!("SCHED_POLICY is not applied: whoever started this chose a policy already"),
            Err(error) => tracing::warn!(%error, "SCHED_POLICY: the system refused; the usual policy stays"),
        },
    }
}

/// `false`: the policy is not the kernel's usual one, so somebody wanted it so.
fn become_batch() -> io::Result<bool> {
    // SAFETY: takes a thread id, 0 for the calling thread, and touches no memory of ours.
    match unsafe { libc::sched_getscheduler(0) } {
        -1 => Err(io::Error::last_os_error()),
        libc::SCHED_OTHER => {
            let param = libc::sched_param { sched_priority: 0 }; // the only one that SCHED_BATCH has
            // SAFETY: `param` is a valid `sched_param` that outlives the call, which only reads it.
            match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(true),
            }
        }
        _ => Ok(false),
    }
}

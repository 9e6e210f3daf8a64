//! `SCHED_POLICY`: under which policy the kernel runs the threads of a process.

mod support;

use std::time::Duration;

use support::process::{self, Process};
use support::{scratch_dir, wait_until};

/// Numbers of sched(7).
const SCHED_OTHER: u32 = 0;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
/// Field of `proc_pid_stat(5)`, counted from 1; the second is a name in parentheses.
const POLICY_FIELD: usize = 41;
/// For an idle process on a busy machine too.
const SOON: Duration = Duration::from_mins(1);

/// The name and policy of each thread.
fn threads(pid: u32) -> Vec<(String, u32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    // A thread that ended meanwhile is none.
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats
        .map(|stat| {
            let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).expect("pid (name) …");
            let policy = rest.split_whitespace().nth(POLICY_FIELD - 3).and_then(|field| field.parse().ok());
            (name.to_owned(), policy.expect("a number"))
        })
        .collect()
}

/// Starts `program` and waits for a thread of this name. Every thread must then have the same policy, which is returned.
fn policy_of(program: &[&str], settings: &[(&str, &str)], thread: &str) -> u32 {
    let dir = scratch_dir("scheduling");
    let mut command = process::command(program[0]);
    command.args(&program[1..]).env_clear().env("PATH", "/usr/bin:/bin").envs(settings.iter().copied());
    command.current_dir(dir.path());
    let process = Process::spawn("thousandx", command, dir.path().join("log"));
    let started = wait_until(SOON, || threads(process.pid()).iter().any(|(name, _)| name == thread).then_some(()));
    if started.is_none() {
        process.fail(&format!("there is no thread {thread}"));
    }
    let threads = threads(process.pid());
    assert!(threads.len() > 1, "threads that inherit are what counts: {threads:?}");
    let policy = threads[0].1;
    assert!(threads.iter().all(|(_, other)| *other == policy), "{threads:?}");
    policy
}

const THOUSANDX: &str = env!("CARGO_BIN_EXE_thousandx");
const SERVER: [(&str, &str); 1] = [("PORT", "0")];
const INHERIT: (&str, &str) = ("SCHED_POLICY", "inherit");

#[test]
fn the_server_and_the_worker_run_as_batch_work() {
    assert_eq!(policy_of(&[THOUSANDX, "dev"], &SERVER, "shard-0"), SCHED_BATCH);
    let nowhere = [("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")];
    // A thread of the Kafka client: those of the worker itself are there before it.
    assert_eq!(policy_of(&[THOUSANDX, "work"], &nowhere, "rdk:main"), SCHED_BATCH);
    let nothing = [nowhere[0], ("REDIS_URL", "redis://127.0.0.1:1"), SERVER[0]];
    assert_eq!(policy_of(&[THOUSANDX, "serve"], &nothing, "shard-0"), SCHED_BATCH);
}

#[test]
fn inherit_leaves_the_policy_alone() {
    assert_eq!(policy_of(&[THOUSANDX, "dev"], &[SERVER[0], INHERIT], "shard-0"), SCHED_OTHER);
}

#[test]
fn a_policy_that_somebody_chose_stays() {
    assert_eq!(policy_of(&["chrt", "--idle", "0", THOUSANDX, "dev"], &SERVER, "shard-0"), SCHED_IDLE);
}

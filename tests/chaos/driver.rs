//! The driver of scripts/chaos.sh: three servers on one Kafka and one Redis under load, faults as the seed says, and a
//! record of everything that clients and workers saw, for `check-history` to judge.
//!
//! It fails by itself only for what the history does not say: a server that does not come up, serve or end, permits that
//! outlive their lease, memory or descriptors that have grown.

// Cargo builds a bench without harness with cfg(test) as well.
#![cfg_attr(test, allow(dead_code, reason = "the plan's other users are its tests"))]

mod clients;
mod cluster;
mod plan;
mod record;
#[path = "../support/mod.rs"]
mod support;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::json;

use clients::{Client, Clients, Table};
use cluster::{CAPACITY, Cluster, LEASE};
use plan::{Plan, QUIET};
use record::{Recorder, now_ns};
use support::wait_until;

/// P9: a server serves again so long after the last fault.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// A permit is back so long after its request's end: the next call to Redis, on a busy machine.
const RELEASE_MS: u64 = 1_000;
/// A shard that knew the set to be full a call (`REDIS_TIMEOUT_MS`) and a few ms ago refuses without asking again.
const REFUSAL_MS: u64 = 260;
/// Resident memory that the run may leave behind: allocator caches, and no more.
const GROWTH_MAX_BYTES: f64 = 64e6;
/// Descriptors likewise: librdkafka's connections.
const FDS_MORE_MAX: f64 = 8.0;
/// Runnable threads per core; a run by itself makes fewer than half of this.
const LOAD_PER_CORE_MAX: f64 = 10.0;
/// Until the connections of the last clients are gone.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Random faults on a cluster of thousandx, recorded.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Args {
    /// What the plan is made from; without it nothing is done.
    #[arg(long)]
    seed: Option<u64>,
    /// Of load.
    #[arg(long, default_value = "3")]
    minutes: f64,
    /// Prints the plan and does nothing else.
    #[arg(long)]
    plan_only: bool,
    /// Where the history goes: an empty directory, or none yet.
    #[arg(long, default_value = "chaos-history")]
    out: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
    /// `cargo bench` passes this to every bench; nothing to do then.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// A worker of the run.
    #[command(hide = true)]
    Work(worker::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Role::Work(args)) = &args.role {
        worker::run(args);
    }
    let Some(seed) = args.seed else {
        println!("chaos: give --seed N; scripts/chaos.sh does it all");
        return ExitCode::SUCCESS;
    };
    let plan = Plan::new(seed, Duration::from_secs_f64(args.minutes * 60.0));
    print!("{plan}");
    if args.plan_only {
        return ExitCode::SUCCESS;
    }
    std::fs::create_dir_all(&args.out).unwrap_or_else(|error| panic!("{}: {error}", args.out.display()));
    let problems = run(&plan, &args.out);
    for problem in &problems {
        println!("PROBLEM: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The whole run; what went wrong beside the history.
fn run(plan: &Plan, dir: &Path) -> Vec<String> {
    let recorder = Arc::new(Recorder::create(&dir.join("driver.jsonl")));
    let table = Arc::new(Table::default());
    let lease_ms = u64::try_from(LEASE.as_millis()).expect("a short time");
    let terms = json!({
        "capacity": CAPACITY, "lease_ms": lease_ms, "release_ms": RELEASE_MS, "refusal_ms": REFUSAL_MS,
    });
    recorder.record(now_ns(), "driver", "start", terms);
    let mut cluster = Cluster::start(dir, &table, &recorder);
    let mut prober = Client::new("client-prober".into(), plan.seed, Arc::clone(&recorder));
    serve_all(&mut cluster, &mut prober);
    let before = Footprint::of(&cluster);
    let clients = Clients::start(plan.seed, &table, &recorder);
    strike(plan, &mut cluster);
    let healed = Instant::now();
    serve_all(&mut cluster, &mut prober);
    pause_until(healed + QUIET);
    clients.stop();
    let left = wait_until(LEASE, || (cluster.permits() == 0).then_some(()));
    recorder.record(now_ns(), "limiter", "permits", json!({ "size": cluster.permits() }));
    if left.is_none() {
        cluster.problems.push(format!("{} permits are held one lease after the last request", cluster.permits()));
    }
    compare(&before, &mut cluster);
    let problems = std::mem::take(&mut cluster.problems);
    cluster.end();
    say_how_busy_the_machine_is();
    problems
}

/// Promises in seconds hold for processes that get to run: this is for whoever reads why one was broken.
fn say_how_busy_the_machine_is() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("  load of the machine in the last minute: {load} on {cores} cores");
    if load > LOAD_PER_CORE_MAX * f64::from(u32::try_from(cores).unwrap_or(u32::MAX)) {
        println!("  far more than this run makes by itself: what is late may be the machine's fault");
    }
}

/// Fault after fault, each at its time or as soon as the one before is undone.
fn strike(plan: &Plan, cluster: &mut Cluster) {
    let start = Instant::now();
    for step in &plan.steps {
        pause_until(start + step.at);
        let begun = start.elapsed().as_secs_f64();
        cluster.apply(*step);
        println!("  {begun:7.3} s  {}, undone at {:.3} s", step.fault, start.elapsed().as_secs_f64());
    }
}

/// Every server answers 200 within the promised time.
fn serve_all(cluster: &mut Cluster, prober: &mut Client) {
    let from = Instant::now();
    for place in 0..cluster.servers.len() {
        let (name, address) = (cluster.servers[place].name.clone(), cluster.servers[place].it.address());
        let left = BACK_WITHIN.saturating_sub(from.elapsed());
        if wait_until(left, || (prober.ask(&name, address) == Some(200)).then_some(())).is_none() {
            cluster.problems.push(format!("{name} does not serve within {BACK_WITHIN:?}; see its log"));
        }
    }
    println!("  every server serves after {:.3} s", from.elapsed().as_secs_f64());
}

/// What the hungriest server uses.
#[derive(Debug)]
struct Footprint {
    resident_bytes: f64,
    fds: f64,
}

impl Footprint {
    fn of(cluster: &Cluster) -> Self {
        let most = |series: &str| cluster.servers.iter().map(|server| server.it.metric(series)).fold(0.0, f64::max);
        Self { resident_bytes: most("process_resident_memory_bytes"), fds: most("process_open_fds") }
    }
}

/// Servers that lived through faults, beside servers that had just started.
fn compare(before: &Footprint, cluster: &mut Cluster) {
    let settled = wait_until(SETTLE_MAX, || (Footprint::of(cluster).fds <= before.fds + FDS_MORE_MAX).then_some(()));
    let after = Footprint::of(cluster);
    println!("  at the start {before:?}, at the end {after:?}");
    if settled.is_none() || after.resident_bytes > before.resident_bytes + GROWTH_MAX_BYTES {
        cluster.problems.push(format!("a server has grown: {before:?}, then {after:?}"));
    }
}

fn pause_until(moment: Instant) {
    // workload: the plan's own times
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

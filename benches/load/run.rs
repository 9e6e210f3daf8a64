//! A whole run: threads, clock, CPU accounting, progress, report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Args, Target};
use crate::cpu::Usage;
use crate::driver::{Driver, Outcome, Plan};
use crate::report::{Report, Sum};
use crate::schedule::{Schedule, Window};
use crate::task::Nonces;

/// From the last connection to the first request: enough for every thread to be told.
const START_DELAY: Duration = Duration::from_millis(20);
/// How often the progress bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// The name under which the report has this program's own CPU time.
const SELF: &str = "generator";

/// Puts the load that `args` describe on `target` and reports what came of it.
pub fn run(args: &Args, target: &Target) -> Result<Report> {
    let threads = args.threads()?;
    let finished: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    let run_id = rand::random::<u32>() >> 8;
    let (outcomes, cpu) = thread::scope(|scope| {
        let workers: Vec<_> = finished
            .iter()
            .zip(0..threads)
            .map(|(finished, thread)| {
                let plan = Plan {
                    server: target.server,
                    template: target.template.clone(),
                    nonces: Nonces::new(run_id, thread),
                    connections: share(args.connections, thread, threads),
                    timeout: args.timeout,
                };
                spawn(scope, plan, finished, move |window| match args.rate {
                    Some(rate) => Schedule::open(window, rate.get(), thread, threads),
                    None => Schedule::closed(window),
                })
            })
            .collect();
        conduct(args, workers, &finished)
    })?;
    let mut sum = Sum::default();
    for outcome in &outcomes {
        sum.add(outcome);
    }
    Ok(Report::new(args, target, threads, &sum, cpu))
}

/// One thread, as its conductor sees it.
struct Worker<'scope> {
    handle: ScopedJoinHandle<'scope, Result<Outcome>>,
    connected: mpsc::Receiver<()>,
    start: mpsc::Sender<Window>,
}

/// CPU time per name over the measured window; `None` when the process could not be read at both ends of it.
pub type CpuTimes = BTreeMap<String, Option<Usage>>;

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    plan: Plan,
    finished: &'scope AtomicU64,
    schedule: impl FnOnce(Window) -> Schedule + Send + 'scope,
) -> Worker<'scope> {
    let (tell_connected, connected) = mpsc::channel();
    let (start, told_to_start) = mpsc::channel();
    let handle = scope.spawn(move || {
        let driver = Driver::connect(plan, finished)?;
        // Either end is gone only when the run was given up.
        let _ = tell_connected.send(());
        let window = told_to_start.recv().context("another thread could not connect")?;
        driver.run(window, schedule(window))
    });
    Worker { handle, connected, start }
}

/// Starts all threads at one time once every connection stands, and watches the clock for them.
fn conduct(args: &Args, workers: Vec<Worker<'_>>, finished: &[AtomicU64]) -> Result<(Vec<Outcome>, CpuTimes)> {
    let all_connected = workers.iter().all(|worker| worker.connected.recv().is_ok());
    let mut cpu = CpuTimes::new();
    let (handles, starts): (Vec<_>, Vec<_>) = workers.into_iter().map(|worker| (worker.handle, worker.start)).unzip();
    if all_connected {
        let begin = Instant::now() + START_DELAY;
        let measured_from = begin + args.warmup;
        let window = Window { begin, measured_from, end: measured_from + args.seconds };
        for start in &starts {
            // A thread that is gone reports its error when it is joined.
            let _ = start.send(window);
        }
        cpu = watch(args, window, finished);
    }
    drop(starts);
    let joined = handles.into_iter().map(|handle| handle.join().map_err(|_| anyhow!("a thread panicked"))?);
    Ok((joined.collect::<Result<_>>()?, cpu))
}

/// Draws progress until the end of the window and takes the CPU time of every process over its measured part.
fn watch(args: &Args, window: Window, finished: &[AtomicU64]) -> CpuTimes {
    let total = window.end - window.begin;
    // Hidden by indicatif when standard error is not a terminal.
    let bar = ProgressBar::new(u64::try_from(total.as_millis()).unwrap_or(u64::MAX));
    let style =
        ProgressStyle::with_template("{bar:30} {elapsed}/{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    let wait_until = |until: Instant| {
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::sleep(left.min(DRAW_EVERY));
            let elapsed = window.begin.elapsed().min(total);
            let answers: u64 = finished.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            bar.set_message(format!("{:.0} s, {answers} answers", total.as_secs_f64()));
        }
    };
    wait_until(window.measured_from);
    let before = snapshot(args);
    wait_until(window.end);
    let after = snapshot(args);
    bar.finish_and_clear();
    let used = |(name, end): (String, Option<Usage>)| {
        let begin = before.get(&name).copied().flatten();
        (name, end.zip(begin).map(|(end, begin)| end - begin))
    };
    after.into_iter().map(used).collect()
}

/// The CPU time of every process until now, by name.
fn snapshot(args: &Args) -> CpuTimes {
    let own = (SELF, std::process::id());
    let given = args.cpu.iter().map(|process| (process.name.as_str(), process.pid));
    let mut times = CpuTimes::new();
    for (name, pid) in given.chain([own]) {
        let usage = Usage::of(pid).ok();
        let entry = times.entry(name.to_owned()).or_insert(Some(Usage::default()));
        *entry = entry.zip(usage).map(|(sum, usage)| sum.plus(usage));
    }
    times
}

/// Connections of one thread, the remainder going to the first ones.
fn share(connections: u32, thread: u8, threads: u8) -> usize {
    let (connections, thread, threads) = (connections as usize, usize::from(thread), usize::from(threads));
    connections / threads + usize::from(thread < connections % threads)
}

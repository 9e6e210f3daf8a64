//! `check-history FILE…`: judges the records of one run and prints the verdict.
//!
//! The files together are one history. Exit code 0: every promise is proven. 1: one is broken, or could not be decided.
//! 2: the files are no history, or cannot be read.

use std::process::ExitCode;

use thousandx_history::event::{Event, parse};
use thousandx_history::history::{MS, Malformed};
use thousandx_history::{Report, Violation, check};

const USAGE: &str = "usage: check-history FILE…    records as JSON lines; see tests/history/event.rs";
/// Violations that are printed in full.
const SHOWN_MAX: usize = 50;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() || files.iter().any(|file| file.starts_with('-')) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match read(&files).and_then(|events| {
        let start = events.iter().map(|event| event.t).min().unwrap_or(0);
        Ok((check(events)?, start))
    }) {
        Ok((report, start)) => {
            print(&report, start);
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn read(files: &[String]) -> Result<Vec<Event>, Malformed> {
    let mut events = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| Malformed(format!("{file}: {error}")))?;
        events.extend(parse(file, &text)?);
    }
    Ok(events)
}

fn print(report: &Report, start: u64) {
    let counts = &report.counts;
    println!("{} requests, {} faults", counts.requests, counts.faults);
    let statuses: Vec<_> = counts.statuses.iter().map(|(status, count)| format!("{count} × {status}")).collect();
    println!("answers: {}; {} left, {} lost with their server", statuses.join(", "), counts.left, counts.lost);
    println!("tasks taken: {}, of these again: {}", counts.takes.0, counts.takes.1);
    println!("held at once for sure: at most {}", report.held_max);
    for excuse in &report.excuses {
        let (from, to) = (seconds(excuse.from, start), seconds(excuse.to, start));
        let why = excuse.why.as_deref().unwrap_or("no reason given");
        println!("excused: {} from {from} s to {to} s: {why}", excuse.promise);
    }
    list("would be violations, and are excused", &report.excused, start);
    list("VIOLATIONS", &report.violations, start);
    if !report.decided {
        println!("P3 could be neither proven nor refuted");
    }
    println!("verdict: {}", if report.is_clean() { "clean" } else { "NOT clean" });
}

fn list(title: &str, found: &[Violation], start: u64) {
    if found.is_empty() {
        return;
    }
    println!("{title}: {}", found.len());
    for violation in found.iter().take(SHOWN_MAX) {
        println!("  {} at {} s: {}", violation.promise, seconds(violation.t, start), violation.what);
    }
}

/// Since the first record.
fn seconds(t: u64, start: u64) -> String {
    let ms = t.saturating_sub(start) / MS;
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

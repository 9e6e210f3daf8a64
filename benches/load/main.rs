//! The load generator: `cargo bench --bench load -- --help`; `scripts/load.sh` is its front door.
//!
//! `args → run → driver (one per thread) → conn, response, task, schedule → tally → report`

// Cargo builds a bench without harness with cfg(test) as well; the tests' helpers are used in tests.rs only.
#![cfg_attr(test, allow(dead_code, unused_imports, reason = "the tests of these modules run in tests.rs"))]

mod args;
mod conn;
mod cpu;
mod driver;
mod report;
mod response;
mod run;
mod schedule;
mod tally;
mod task;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

fn main() -> Result<ExitCode> {
    let args = args::Args::parse();
    let Some(url) = &args.url else {
        println!("load: give --url http://HOST:PORT/queue; scripts/load.sh does it all");
        return Ok(ExitCode::SUCCESS);
    };
    let report = run::run(&args, &args::Target::new(url)?)?;
    print!("{report}");
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

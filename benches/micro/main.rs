//! What each part of a request costs, beside what a library in its place would.
//!
//! ```text
//! cargo bench --bench micro [FILTER]        time, by criterion: about a minute
//! scripts/instructions.sh                   instructions and allocations, by callgrind: steady on a noisy machine
//! ```
//! Both run the same operations; a file has those of one module of the server, each named after what it does and who
//! does it: `own`, or the library that would do it otherwise. Hashers and generators are the real ones, with random
//! seeds: their instruction counts vary by less than 1 %.

mod correlate;
mod http;
mod limiter;
mod wire;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use thousandx::config::{self, Command, Config, DotEnv, Layers};

// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Who does an operation in our code.
const OWN: &str = "own";
/// Before the count starts: tables have grown, buffers have their size.
const WARMUP_ROUNDS: u32 = 200;
/// Rounds that are counted; `scripts/instructions.sh` reads it from the output.
const ROUNDS: u32 = 1_000;

/// Takes the measure of one operation after the other.
trait Meter {
    /// `operation` does `what` by means of `who`. Its result is dropped, which counts.
    fn measure<R>(&mut self, what: &str, who: &str, operation: impl FnMut() -> R);
}

impl Meter for Criterion {
    fn measure<R>(&mut self, what: &str, who: &str, operation: impl FnMut() -> R) {
        let mut operation = operation;
        self.benchmark_group(what).bench_function(who, |bencher| bencher.iter(&mut operation));
    }
}

/// Runs each operation for callgrind, which counts inside [`counted`], and names it on standard output.
struct Counter;

impl Meter for Counter {
    fn measure<R>(&mut self, what: &str, who: &str, mut operation: impl FnMut() -> R) {
        for _ in 0..WARMUP_ROUNDS {
            black_box(operation());
        }
        println!("{ROUNDS}\t{what}\t{who}");
        counted(&mut operation);
    }
}

/// The name is known to `scripts/instructions.sh`.
#[inline(never)]
fn counted<R>(operation: &mut impl FnMut() -> R) {
    for _ in 0..ROUNDS {
        black_box(operation());
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--instructions") {
        return all(&mut Counter);
    }
    // Half a second per operation: whoever needs small differences takes the instruction counts.
    let criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(30);
    let mut criterion = criterion.configure_from_args();
    all(&mut criterion);
    criterion.final_summary();
}

fn all(meter: &mut impl Meter) {
    correlate::all(meter);
    http::all(meter);
    limiter::all(meter);
    wire::all(meter);
}

/// The default settings, but for `changed`.
fn settings(changed: &[(&str, &str)]) -> Config {
    let flags = changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let layers = Layers { flags, environment: &BTreeMap::new(), dotenv: DotEnv::default() };
    config::load(Command::Dev, &layers).into_config().expect("the defaults are sound")
}

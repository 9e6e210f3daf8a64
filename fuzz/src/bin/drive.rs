//! The driver on stable: runs a target on its corpus, then on mutations of it, for a bounded time.
//!
//! ```text
//! drive --seconds N [--seed N] [TARGET…]     all targets without a name; exit code 1 when one failed
//! drive FILE                                 one input, e.g. of fuzz/artifacts/TARGET/
//! ```
//! An input that makes a target panic, or takes it longer than a second, is written to `fuzz/artifacts/TARGET/`. Inputs
//! follow from the seed alone, so that a death of the whole process is reproduced by the seed that was printed.

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use rand::SeedableRng;
use rand::rngs::StdRng;
use thousandx_fuzz::mutate::{BYTES_MAX, mutated};
use thousandx_fuzz::targets::{TARGETS, Target};

/// The longest that an input may take, on a busy machine and without optimisation: they need microseconds.
const RUN_TIME_MAX: Duration = Duration::from_secs(1);
/// The clock is looked at after so many inputs.
const ROUND: usize = 256;

/// What is asked for.
struct Order {
    seconds: u64,
    seed: u64,
    names: Vec<String>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let order = order(env::args().skip(1))?;
    if let [path] = &order.names[..]
        && Path::new(path).is_file()
    {
        return replay(Path::new(path));
    }
    let mut failed = false;
    for name in &order.names {
        if !TARGETS.iter().any(|target| target.name == name) {
            return Err(format!("there is no target {name}").into());
        }
    }
    for target in TARGETS.iter().filter(|target| order.names.is_empty() || order.names.iter().any(|n| n == target.name))
    {
        failed |= !drive(target, &order)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn order(mut arguments: impl Iterator<Item = String>) -> Result<Order, Box<dyn Error>> {
    let mut order = Order { seconds: 1, seed: rand::random::<u32>().into(), names: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut number =
            || -> Result<u64, Box<dyn Error>> { Ok(arguments.next().ok_or("a number is missing")?.parse()?) };
        match argument.as_str() {
            "--seconds" => order.seconds = number()?,
            "--seed" => order.seed = number()?,
            _ if argument.starts_with('-') => return Err(format!("there is no option {argument}").into()),
            _ => order.names.push(argument),
        }
    }
    Ok(order)
}

/// One target for its time; `false` when it failed.
fn drive(target: &Target, order: &Order) -> Result<bool, Box<dyn Error>> {
    let corpus = corpus(target.name)?;
    let until = Instant::now() + Duration::from_secs(order.seconds);
    let mut random = StdRng::seed_from_u64(order.seed);
    println!("{:8} seed {}, {} inputs in the corpus", target.name, order.seed, corpus.len());
    let mut count = 0_u64;
    for input in &corpus {
        count += 1;
        if !holds(target, input)? {
            return Ok(false);
        }
    }
    while Instant::now() < until {
        for _ in 0..ROUND {
            count += 1;
            if !holds(target, &mutated(&corpus, target.words, &mut random))? {
                return Ok(false);
            }
        }
    }
    println!("{:8} {count} inputs, none failed", target.name);
    Ok(true)
}

/// Runs one input; keeps it when the target panics or dawdles.
fn holds(target: &Target, input: &[u8]) -> Result<bool, Box<dyn Error>> {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = started.elapsed();
    if outcome.is_ok() && took < RUN_TIME_MAX {
        return Ok(true);
    }
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let directory = root().join("artifacts").join(target.name);
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{:016x}", hasher.finish()));
    fs::write(&path, input)?;
    let what = if outcome.is_err() { "panicked (see above)".to_owned() } else { format!("took {took:?}") };
    println!("{:8} FAILED: {what} on {} bytes, kept in {}", target.name, input.len(), path.display());
    println!("{:8} {}", target.name, input.escape_ascii());
    Ok(false)
}

/// Runs one file by the target that its directory is named after.
fn replay(path: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let directory = path.parent().and_then(Path::file_name).unwrap_or_default();
    let target =
        TARGETS.iter().find(|target| directory == target.name).ok_or("the directory is not a target's name")?;
    (target.run)(&fs::read(path)?);
    println!("{:8} holds", target.name);
    Ok(ExitCode::SUCCESS)
}

/// The files of the target's corpus, in order of their names.
fn corpus(name: &str) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let directory = root().join("corpus").join(name);
    let entries = fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>, std::io::Error>>()?;
    paths.sort();
    let corpus = paths.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
    if corpus.is_empty() || corpus.iter().any(|input| input.len() > BYTES_MAX) {
        return Err(format!("{}: no inputs, or one longer than {BYTES_MAX} bytes", directory.display()).into());
    }
    Ok(corpus)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

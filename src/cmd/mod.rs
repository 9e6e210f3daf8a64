//! One file per command; wires parts together, owns no logic.

pub mod cli;
pub mod config;
pub mod dev;
mod markdown;
pub mod probe;
pub mod serve;
mod service;
mod shard;
pub mod topics;
pub mod work;

use std::io::{ErrorKind, Write};

use cli::Invocation;

use crate::config::{Config, Loaded};
use crate::error::StartError;
use crate::observe::log;
use crate::scheduling;

/// Runs the command to its end. `loaded` are its settings, not judged yet: only `config` works with wrong ones.
pub fn run(invocation: &Invocation, loaded: Loaded) -> Result<(), StartError> {
    match invocation {
        Invocation::Dev => dev::run(staying(loaded)?),
        Invocation::Serve => serve::run(staying(loaded)?),
        Invocation::Work => work::run(staying(loaded)?),
        Invocation::Topics => topics::run(sound(loaded)?),
        Invocation::Probe { url } => probe::run(&sound(loaded)?, url.as_deref()),
        Invocation::Config { output, .. } => config::run(*output, &loaded),
    }
}

/// Judges the settings and starts the log, which then has what was strange about them.
fn sound(loaded: Loaded) -> Result<Config, StartError> {
    let warnings = loaded.warnings.clone();
    let config = loaded.into_config()?;
    log::init(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// As [`sound`], for a command that serves or works. Its threads are not started yet and will inherit the policy.
fn staying(loaded: Loaded) -> Result<Config, StartError> {
    let config = sound(loaded)?;
    scheduling::apply(config.scheduling);
    Ok(config)
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<(), StartError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

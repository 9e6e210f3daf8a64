//! The `thousandx` binary: allocator, command line, settings, logging, dispatch, exit code.

mod memory;

use std::process::ExitCode;

use thousandx::cmd::{self, cli::Cli};
use thousandx::config::{self, Environment, Layers};
use thousandx::error::StartError;

/// A command line that clap refuses: `EX_USAGE`, as for settings that are refused later.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    memory::give_back_whole_huge_pages();
    let cli = match Cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => {
            let _ = answer.print(); // help, version, or what is wrong; nobody is left to tell if it cannot be printed
            return if answer.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thousandx: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), StartError> {
    let (command, dotenv) = (cli.target(), cli.dotenv());
    let Cli { invocation, flags, .. } = cli;
    let loaded = config::load(command, &Layers { flags, environment: &Environment, dotenv });
    cmd::run(&invocation, loaded)
}

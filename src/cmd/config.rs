//! `thousandx config`: prints the effective settings and their sources, or checks them, or prints the tables that the
//! documents hold.

use super::{markdown, print};
use crate::config::{Loaded, render};
use crate::error::StartError;

/// What `thousandx config` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Every setting, its value and source.
    Listing,
    /// `ok`, or everything that is wrong.
    Check,
    /// The README's table of settings.
    Markdown,
    /// The README's table of statuses and codes.
    MarkdownCodes,
    /// `.env.example`.
    EnvExample,
}

/// Prints. Only `--check` fails on wrong settings; the listing shows them and what is wrong, to help mend them.
pub fn run(output: Output, loaded: &Loaded) -> Result<(), StartError> {
    match output {
        Output::Markdown => print(&render::markdown()),
        Output::MarkdownCodes => print(&markdown::codes()),
        Output::EnvExample => print(&render::env_example()),
        Output::Listing => {
            print(&render::listing(loaded))?;
            for remark in loaded.report().iter().chain(&loaded.warnings) {
                print(&format!("\n{remark}\n"))?;
            }
            Ok(())
        }
        Output::Check => match loaded.report() {
            None => print("ok\n"),
            Some(report) => Err(StartError::Settings(report)),
        },
    }
}

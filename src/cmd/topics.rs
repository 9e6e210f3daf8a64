//! `thousandx topics`.

use crate::config::Config;
use crate::error::StartError;

/// Runs the command to its end.
pub fn run(config: Config) -> Result<(), StartError> {
    drop(config);
    Err(StartError::Check("not built yet".into()))
}

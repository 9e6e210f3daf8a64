//! CPU time of processes, from `/proc/PID/stat`.

use std::fs;
use std::ops::Sub;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

/// A process to account for, given as `NAME=PID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// What the report calls it; processes of one name are added up.
    pub name: String,
    /// Its id.
    pub pid: u32,
}

impl FromStr for Process {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, pid) = text.split_once('=').filter(|(name, _)| !name.is_empty()).context("expected NAME=PID")?;
        Ok(Self { name: name.to_owned(), pid: pid.parse().context("the PID is not a number")? })
    }
}

/// CPU time used, in microseconds; the kernel counts in steps of 10 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// In the program.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
}

impl Usage {
    /// What the process has used since it started, its ended threads included and its children not (proc(5)).
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&text).ok_or_else(|| anyhow!("cannot understand {path}"))
    }

    /// User and system time together.
    #[must_use]
    pub fn total_us(self) -> u64 {
        self.user_us + self.system_us
    }

    /// Adds another process.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { user_us: self.user_us + other.user_us, system_us: self.system_us + other.system_us }
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field is the program's name in brackets, which may contain anything: count from the last one.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
        let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second();
        let mut next = || Some(fields.next()?.parse::<u64>().ok()? * tick_us);
        Some(Self { user_us: next()?, system_us: next()? })
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            system_us: self.system_us.saturating_sub(earlier.system_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_after_a_strange_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 250 0 0 20 0 3 0 100";
        assert_eq!(Usage::parse(stat), Some(Usage { user_us: 1_500_000, system_us: 2_500_000 }));
        assert_eq!(Usage::parse("nonsense"), None);
    }

    #[test]
    fn reads_this_process() {
        assert!(Usage::of(std::process::id()).is_ok());
        assert!(Usage::of(u32::MAX).is_err());
    }

    #[test]
    fn reads_name_and_pid() {
        assert_eq!("server=7".parse::<Process>().unwrap(), Process { name: "server".into(), pid: 7 });
        for bad in ["server", "=7", "server=", "server=x"] {
            assert!(bad.parse::<Process>().is_err(), "{bad}");
        }
    }
}

//! What the operating system says about this process, and which build it is.

use std::fs;
use std::time::Duration;

use super::metrics::{Collect, Samples};

/// Clock ticks per second in `/proc`: `USER_HZ`, fixed at 100 by the kernel's interface on every architecture that
/// this program is built for, whatever the kernel's own tick is.
const TICKS_PER_S: u64 = 100;

/// Numbers of this process from `/proc/self` (proc(5)), under the names that Prometheus client libraries share, and
/// `thousandx_build_info`. Where there is no `/proc` the numbers are absent.
#[derive(Debug)]
pub struct Process {
    librdkafka: String,
}

impl Process {
    /// One per process.
    #[must_use]
    pub fn new() -> Self {
        Self { librdkafka: rdkafka::util::get_rdkafka_version().1 }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Collect for Process {
    fn collect(&self, samples: &mut Samples) {
        let build = [("version", env!("CARGO_PKG_VERSION")), ("librdkafka", self.librdkafka.as_str())];
        samples.gauge("thousandx_build_info", "Always 1; the labels say which build this is.", &build, 1);
        if let Some(bytes) = resident_bytes() {
            samples.gauge("process_resident_memory_bytes", "Resident memory in bytes.", &[], bytes);
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            let open = i64::try_from(fds.count()).unwrap_or(i64::MAX) - 1;
            samples.gauge("process_open_fds", "Open file descriptors.", &[], open);
        }
        if let Some(times) = times() {
            let help = "User and system CPU time in seconds.";
            samples.counter_seconds("process_cpu_seconds", help, &[], times.cpu);
            let help = "Start of the process, in seconds since the Unix epoch.";
            samples.gauge("process_start_time_seconds", help, &[], times.start_unix_s);
        }
    }
}

/// `VmRSS` of `/proc/self/status`, which is in kB whatever the page size.
fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
}

struct Times {
    cpu: Duration,
    start_unix_s: i64,
}

fn times() -> Option<Times> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot_unix_s: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    parse_times(&stat, boot_unix_s)
}

/// Fields 14 (utime), 15 (stime) and 22 (starttime), counted from 1; the second is the program's name in brackets,
/// which may hold spaces and brackets itself.
fn parse_times(stat: &str, boot_unix_s: u64) -> Option<Times> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let cpu = Duration::from_millis((ticks(14)? + ticks(15)?) * (1000 / TICKS_PER_S));
    let start_unix_s = i64::try_from(boot_unix_s + ticks(22)? / TICKS_PER_S).ok()?;
    Some(Times { cpu, start_unix_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_program_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 12345 20 21";
        let times = parse_times(stat, 1_000).unwrap();
        assert_eq!(times.cpu, Duration::from_secs(3));
        assert_eq!(times.start_unix_s, 1_123);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_sensible_numbers() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let times = times().unwrap();
        assert!(i64::try_from(now.as_secs()).unwrap() - times.start_unix_s < 86_400, "started today");
        assert!(resident_bytes().unwrap() > 100_000);
        let mut samples = Samples::default();
        Process::new().collect(&mut samples);
        let (_, text) = super::super::exposition::encode(&samples, None);
        for name in ["thousandx_build_info{", "process_open_fds ", "process_cpu_seconds_total "] {
            assert!(text.contains(name), "{name} is missing in:\n{text}");
        }
    }
}

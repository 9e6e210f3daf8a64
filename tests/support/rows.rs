//! A row of the fault matrix as a test has seen it: what was measured, judged and put into one line of JSON.
//!
//! The line goes to standard output and to the end of the file that `THOUSANDX_ROWS` names; `scripts/faults.sh` makes
//! its table of these. A test makes its row before anything else, so that the row ends last and knows whether the test
//! failed.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::load::Report;

/// What a machine that is busy with other tests may add to the time in which a row promises service again.
pub const BUSY: Duration = Duration::from_secs(2);

/// What a server may need in a row of a few to a thousand clients, whatever is away; it is a debug build.
const MEMORY_MIB_MAX: u64 = 256;

/// One row of the matrix, printed when dropped.
pub struct Row {
    name: &'static str,
    fault: String,
    /// Service is back so long after the end of the fault. `None`: the fault takes no service away.
    bound: Option<Duration>,
    refused: Option<Duration>,
    healed: Option<Duration>,
    /// Answers of the loads, by status.
    answers: BTreeMap<u16, u64>,
    /// What the client saw where no load ran.
    saw: Option<String>,
    permits_left: Option<u64>,
    memory_peak: Option<u64>,
    skipped: Option<String>,
}

impl Row {
    /// A row by its name in the matrix, what is broken, and the time after which service is back.
    pub fn start(name: &'static str, fault: impl Into<String>, bound: impl Into<Option<Duration>>) -> Self {
        Self {
            name,
            fault: fault.into(),
            bound: bound.into(),
            refused: None,
            healed: None,
            answers: BTreeMap::new(),
            saw: None,
            permits_left: None,
            memory_peak: None,
            skipped: None,
        }
    }

    /// One more measurement, for the reader.
    pub fn note(&self, what: &str, took: Duration) {
        println!("{} | {what} | {} ms", self.name, took.as_millis());
    }

    /// What the client saw, in words, where no load tells it.
    pub fn saw(&mut self, what: impl Into<String>) {
        self.saw = Some(what.into());
    }

    /// How long until a request was refused, or how long a refusal took; the longest counts.
    pub fn refused(&mut self, what: &str, took: Duration) {
        self.note(what, took);
        self.refused = self.refused.max(Some(took));
    }

    /// How long after the end of the fault a request was served; the longest counts. Fails beyond the row's bound.
    pub fn healed(&mut self, what: &str, took: Duration) {
        self.note(what, took);
        self.healed = self.healed.max(Some(took));
        let bound = self.bound.expect("a row that heals has a bound");
        assert!(took <= bound + BUSY, "{}: {what} after {took:?}, bound {bound:?}", self.name);
    }

    /// Judges the history of a load (promises P1 and P2): every request got exactly one answer, its own, and with one
    /// of these statuses.
    pub fn history(&mut self, report: &Report, statuses: &[u16]) {
        println!("{} | load: {report:?}", self.name);
        report.assert_sound();
        let others: Vec<_> = report.by_status.keys().filter(|status| !statuses.contains(status)).collect();
        assert!(others.is_empty(), "{others:?} in {report:?}");
        let mut nonces = HashSet::new();
        for exchange in &report.history {
            assert!(exchange.status.is_some() && nonces.insert(&exchange.nonce), "{exchange:?}");
        }
        report.by_status.iter().for_each(|(status, count)| *self.answers.entry(*status).or_default() += count);
    }

    /// What is left in the set of permits after the row, and how long it took (promises P3 and P4).
    pub fn permits(&mut self, left: u64, took: Duration) {
        self.note("nothing in flight and the set empty after", took);
        self.permits_left = Some(left);
        assert_eq!(left, 0, "{}: permits are left", self.name);
    }

    /// The most memory that the server ever had, in bytes (promise P6).
    pub fn memory(&mut self, peak: u64) {
        let mib = peak >> 20;
        println!("{} | memory at its peak | {mib} MiB", self.name);
        self.memory_peak = self.memory_peak.max(Some(mib));
        assert!(mib <= MEMORY_MIB_MAX, "{}: the server had {mib} MiB", self.name);
    }

    /// The row cannot be tried on this machine, which must not happen in CI.
    pub fn skip(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        println!("{} | skipped: {reason}", self.name);
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{}: {reason}", self.name);
        self.skipped = Some(reason);
    }

    fn line(&self, ok: bool) -> String {
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis());
        let counts: Vec<_> = self.answers.iter().map(|(status, count)| format!("{status} × {count}")).collect();
        let client = self.saw.iter().cloned().chain(counts).collect::<Vec<_>>().join(", ");
        let thread = std::thread::current();
        json!({
            "row": self.name,
            "fault": self.fault,
            "test": thread.name(),
            "client": client,
            "requests": self.answers.values().sum::<u64>(),
            "refused_ms": ms(self.refused),
            "healed_ms": ms(self.healed),
            "bound_ms": ms(self.bound),
            "permits_left": self.permits_left,
            "memory_peak_mib": self.memory_peak,
            "skipped": self.skipped,
            "ok": ok,
        })
        .to_string()
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let line = self.line(!std::thread::panicking());
        println!("row {line}");
        if let Some(path) = std::env::var_os("THOUSANDX_ROWS") {
            // In one write: other tests append to it too. No assertion: the test may be failing already.
            let file = std::fs::File::options().create(true).append(true).open(path);
            let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        }
    }
}

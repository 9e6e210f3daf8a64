//! Writes the history: one JSON object a line, in the format of `tests/history/event.rs`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// A file of records, shared by threads.
pub struct Recorder {
    file: Mutex<File>,
}

impl Recorder {
    /// A new file.
    pub fn create(path: &Path) -> Self {
        let file = File::create(path).unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
        Self { file: Mutex::new(file) }
    }

    /// One record of the moment `t`; `more` has its further members. Each is one write, so that what was recorded is
    /// there even when the process is killed right after.
    pub fn record(&self, t: u64, who: &str, event: &str, more: Value) {
        let mut record = json!({ "t": t, "who": who, "event": event });
        if let (Value::Object(record), Value::Object(more)) = (&mut record, more) {
            record.extend(more);
        }
        let line = format!("{record}\n");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes()).expect("the history can be written");
    }

    /// One record of now, without further members.
    pub fn note(&self, who: &str, event: &str) {
        self.record(now_ns(), who, event, Value::Null);
    }
}

/// The clock of the history: `CLOCK_MONOTONIC`, which all processes of a machine share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

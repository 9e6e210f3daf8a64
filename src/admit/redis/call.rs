//! One script call: its ids, its encoding, its reply. The script is `limiter.lua`.

use std::fmt;
use std::time::{Duration, Instant};

use ::redis::{Cmd, Value};

use super::super::Refused;
use crate::config::LimiterSettings;
use crate::correlate::CorrelationId;

/// The script's text.
pub(super) const SCRIPT: &str = include_str!("limiter.lua");

/// The text of a correlation id: a member of the set.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PermitId([u8; CorrelationId::TEXT_LEN]);

/// The ids of one call, in the order in which the script treats them. Reused from call to call.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) releases: Vec<PermitId>,
    pub(super) renewals: Vec<PermitId>,
    pub(super) acquires: Vec<PermitId>,
    /// Where the acquires wait, one for one.
    pub(super) keys: Vec<usize>,
    /// How many of the releases, the first ones, were or may have been sent before.
    pub(super) retried: usize,
}

/// What is the same in every call of a shard.
pub(super) struct Terms {
    script_hash: String,
    set_key: String,
    rate_key: String,
    capacity: u32,
    lease_ms: u64,
    /// 0: no rate cap.
    rate_per_s: u32,
}

/// What the script replied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    /// How many of the acquires, the first ones, were granted.
    pub(super) granted: usize,
    /// Permits in use in the whole cluster.
    pub(super) size: u64,
    /// The server's clock, Unix time in ms.
    pub(super) now_ms: i64,
    /// How many of the releases were in the set.
    pub(super) released: usize,
    /// How many of the renewals were not.
    pub(super) reinserted: usize,
    pub(super) why: Why,
}

/// Why not every acquire of a call was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    NotRefused,
    Full,
    Rate,
    /// The call came to the server after its deadline.
    Stale,
    OutOfMemory,
}

/// After twice as long, a clock that was set back is known to be.
const CLOCK_WINDOW_MS: i64 = 30_000;

/// The server's clock as seen from here, ahead of the truth for two windows at most: a call that the server starts after our deadline
/// must look late to it.
pub(super) struct ServerClock {
    /// The zero of `lead_ms`.
    epoch: Instant,
    /// The server's clock minus ours. Each reading is low by the time the reply took, so the highest is the best: of this
    /// window and of the one before, since the clock may be set back.
    lead_ms: i64,
    lead_before_ms: i64,
    /// When the window began, since `epoch`.
    window_ms: i64,
}

impl PermitId {
    pub(super) fn new(text: [u8; CorrelationId::TEXT_LEN]) -> Self {
        Self(text)
    }
}

impl fmt::Debug for PermitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Terms {
    pub(super) fn new(settings: &LimiterSettings) -> Self {
        Self {
            script_hash: ::redis::Script::new(SCRIPT).get_hash().to_owned(),
            rate_key: rate_key(&settings.set_key),
            set_key: settings.set_key.clone(),
            capacity: settings.capacity,
            lease_ms: u64::try_from(settings.lease.as_millis()).unwrap_or(u64::MAX),
            rate_per_s: settings.rate_per_s.unwrap_or(0),
        }
    }

    /// The key of the sorted set, for the log.
    pub(super) fn set_key(&self) -> &str {
        &self.set_key
    }

    /// Writes the call into `command`, which keeps its buffers. `act_until_ms` is by the server's clock.
    pub(super) fn encode(&self, command: &mut Cmd, batch: &Batch, act_until_ms: i64) {
        command.clear();
        command.arg("EVALSHA").arg(&self.script_hash).arg(2).arg(&self.set_key).arg(&self.rate_key);
        command.arg(self.capacity).arg(self.lease_ms).arg(act_until_ms).arg(self.rate_per_s);
        command.arg(batch.releases.len()).arg(batch.renewals.len()).arg(batch.acquires.len());
        for id in batch.releases.iter().chain(&batch.renewals).chain(&batch.acquires) {
            command.arg(&id.0[..]);
        }
    }
}

impl Reply {
    /// `None`: not what the script returns, or more than `batch` asked for.
    pub(super) fn parse(value: &Value, batch: &Batch) -> Option<Self> {
        let Value::Array(items) = value else { return None };
        let [
            Value::Int(granted),
            Value::Int(size),
            Value::Int(now_ms),
            Value::Int(released),
            Value::Int(reinserted),
            Value::Int(why),
        ] = items[..]
        else {
            return None;
        };
        let reply = Self {
            granted: usize::try_from(granted).ok()?,
            size: u64::try_from(size).ok()?,
            now_ms,
            released: usize::try_from(released).ok()?,
            reinserted: usize::try_from(reinserted).ok()?,
            why: Why::from_code(why)?,
        };
        let sane = reply.granted <= batch.acquires.len()
            && reply.released <= batch.releases.len()
            && reply.reinserted <= batch.renewals.len();
        sane.then_some(reply)
    }
}

impl Why {
    /// What this means for an acquire.
    pub(super) fn refusal(self) -> Refused {
        match self {
            Self::Full => Refused::CapacityReached,
            Self::Rate => Refused::RateExceeded,
            Self::NotRefused | Self::Stale | Self::OutOfMemory => Refused::Unavailable,
        }
    }

    fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            0 => Self::NotRefused,
            1 => Self::Full,
            2 => Self::Rate,
            3 => Self::Stale,
            4 => Self::OutOfMemory,
            _ => return None,
        })
    }
}

impl ServerClock {
    /// From a first reading: the server said `server_ms`, which came here at `read_at`.
    pub(super) fn new(server_ms: i64, read_at: Instant) -> Self {
        Self { epoch: read_at, lead_ms: server_ms, lead_before_ms: server_ms, window_ms: 0 }
    }

    /// Takes a further reading.
    pub(super) fn observe(&mut self, server_ms: i64, read_at: Instant) {
        let read_at_ms = self.since_epoch_ms(read_at);
        let lead_ms = server_ms - read_at_ms;
        if read_at_ms - self.window_ms >= CLOCK_WINDOW_MS {
            (self.lead_before_ms, self.lead_ms, self.window_ms) = (self.lead_ms, lead_ms, read_at_ms);
        }
        self.lead_ms = self.lead_ms.max(lead_ms);
    }

    /// The latest ms at which the server may act on a call that starts at `start` and is given up after `timeout`.
    /// The millisecond taken off makes up for the server's clock being cut to whole ones.
    pub(super) fn act_until_ms(&self, start: Instant, timeout: Duration) -> i64 {
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 2);
        self.lead_ms.max(self.lead_before_ms) + self.since_epoch_ms(start) + timeout_ms - 1
    }

    fn since_epoch_ms(&self, at: Instant) -> i64 {
        i64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(i64::MAX / 2)
    }
}

/// The key of the rate cap: in Redis Cluster a script's keys have to be in one slot, which the part in braces decides.
fn rate_key(set_key: &str) -> String {
    if set_key.contains('{') { format!("{set_key}:rate") } else { format!("{{{set_key}}}:rate") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_key_is_in_the_slot_of_the_set() {
        assert_eq!(rate_key("in_flight"), "{in_flight}:rate");
        assert_eq!(rate_key("{app}:in_flight"), "{app}:in_flight:rate");
    }

    #[test]
    fn the_server_clock_is_never_ahead() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut clock = ServerClock::new(10_000, start);
        clock.observe(10_050, after(150));
        assert_eq!(clock.act_until_ms(after(200), Duration::from_millis(250)), 10_449, "a late reply changes nothing");
        clock.observe(10_230, after(210));
        assert_eq!(clock.act_until_ms(after(210), Duration::from_millis(250)), 10_479, "an early one is nearer");

        // Set back by a second.
        let late = |clock: &ServerClock, ms| {
            clock.act_until_ms(after(ms), Duration::from_millis(250)) - i64::try_from(ms).unwrap()
        };
        let minute = 2 * u64::try_from(CLOCK_WINDOW_MS).unwrap();
        for ms in (1_000..=minute + 2_000).step_by(1_000) {
            clock.observe(9_000 + i64::try_from(ms).unwrap(), after(ms));
        }
        assert_eq!(late(&clock, minute + 2_000), 9_249);
    }

    #[test]
    fn a_reply_that_gives_more_than_was_asked_is_refused() {
        let batch = Batch { acquires: vec![PermitId::new([b'a'; 36])], ..Batch::default() };
        let value = |numbers: [i64; 6]| Value::Array(numbers.into_iter().map(Value::Int).collect());
        assert!(Reply::parse(&value([1, 1, 5, 0, 0, 0]), &batch).is_some());
        for bad in [[2, 1, 5, 0, 0, 0], [1, 1, 5, 1, 0, 0], [1, 1, 5, 0, 1, 0], [1, 1, 5, 0, 0, 9], [-1, 1, 5, 0, 0, 0]]
        {
            assert_eq!(Reply::parse(&value(bad), &batch), None, "{bad:?}");
        }
        assert_eq!(Reply::parse(&Value::Nil, &batch), None);
    }
}

//! What became of the requests. One per thread, added up at the end; nothing is shared while the load runs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies are kept from 100 ns to 10 minutes, with three significant digits.
const LATENCY_NS: std::ops::RangeInclusive<u64> = 100..=600_000_000_000;
const LATENCY_DIGITS: u8 = 3;

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 2xx with its own nonce.
    Ok,
    /// 429.
    Busy,
    /// Another status.
    Other(u16),
    /// 2xx without its own nonce: another request's answer, or nonsense.
    Wrong,
    /// Not an answer this program accepts.
    Malformed,
    /// The connection ended before the answer.
    Lost,
    /// No answer within the timeout.
    Hung,
}

/// Counts and latencies of a set of requests.
#[derive(Debug, Clone)]
pub struct Tally {
    /// 2xx with their own nonce.
    pub ok: u64,
    /// 429.
    pub busy: u64,
    /// Other statuses.
    pub other: BTreeMap<u16, u64>,
    /// 2xx without their own nonce.
    pub wrong: u64,
    /// Not accepted as an answer.
    pub malformed: u64,
    /// Connection ended before the answer.
    pub lost: u64,
    /// No answer in time.
    pub hung: u64,
    /// Nanoseconds from the due time to the whole answer, of 2xx.
    pub latency: Histogram<u64>,
    /// The same of 429.
    pub busy_latency: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ok: 0,
            busy: 0,
            other: BTreeMap::new(),
            wrong: 0,
            malformed: 0,
            lost: 0,
            hung: 0,
            latency: latencies(),
            busy_latency: latencies(),
        }
    }
}

impl Tally {
    /// Counts one request.
    pub fn add(&mut self, verdict: Verdict, latency: Duration) {
        match verdict {
            Verdict::Ok => {
                self.ok += 1;
                record(&mut self.latency, latency);
            }
            Verdict::Busy => {
                self.busy += 1;
                record(&mut self.busy_latency, latency);
            }
            Verdict::Other(status) => *self.other.entry(status).or_default() += 1,
            Verdict::Wrong => self.wrong += 1,
            Verdict::Malformed => self.malformed += 1,
            Verdict::Lost => self.lost += 1,
            Verdict::Hung => self.hung += 1,
        }
    }

    /// Adds another thread's.
    pub fn merge(&mut self, with: &Self) {
        self.ok += with.ok;
        self.busy += with.busy;
        for (status, count) in &with.other {
            *self.other.entry(*status).or_default() += count;
        }
        self.wrong += with.wrong;
        self.malformed += with.malformed;
        self.lost += with.lost;
        self.hung += with.hung;
        merge(&mut self.latency, &with.latency);
        merge(&mut self.busy_latency, &with.busy_latency);
    }

    /// Requests that got an answer, right or not.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.ok + self.busy + self.other.values().sum::<u64>() + self.wrong
    }

    /// Requests that ended as none may: the run fails.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.wrong + self.malformed + self.lost + self.hung
    }

    /// All of them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.answered() + self.malformed + self.lost + self.hung
    }
}

/// An empty histogram of nanoseconds.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(*LATENCY_NS.start(), *LATENCY_NS.end(), LATENCY_DIGITS)
        .expect("the bounds are valid by construction")
}

/// Records a duration; what is out of bounds counts as the bound.
pub fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
}

/// Adds one histogram of [`latencies`] to another.
pub fn merge(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    into.add(from).expect("both have the same bounds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_counts_once() {
        let verdicts = [
            Verdict::Ok,
            Verdict::Busy,
            Verdict::Other(503),
            Verdict::Wrong,
            Verdict::Malformed,
            Verdict::Lost,
            Verdict::Hung,
        ];
        let mut one = Tally::default();
        for verdict in verdicts {
            one.add(verdict, Duration::from_millis(2));
        }
        let mut sum = Tally::default();
        sum.merge(&one);
        sum.merge(&one);
        assert_eq!((sum.requests(), sum.answered(), sum.faults()), (14, 8, 8));
        assert_eq!(sum.latency.len(), 2);
        assert_eq!(sum.latency.max() / 1_000_000, 2);
    }

    #[test]
    fn a_latency_out_of_bounds_counts_as_the_bound() {
        let mut tally = Tally::default();
        tally.add(Verdict::Ok, Duration::from_hours(1));
        assert_eq!(tally.latency.max() / 1_000_000_000, 600);
    }
}

//! The report: JSON for scripts, a few lines for people. BENCHMARKS.md says what each field means.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::args::{Args, Target};
use crate::cpu::Usage;
use crate::driver::Outcome;
use crate::run::CpuTimes;
use crate::tally::{Tally, latencies, merge};

/// Share of its threads' time from which on the generator itself may be the limit.
const GENERATOR_BUSY_MAX: f64 = 0.9;

/// The outcomes of all threads, added up.
#[derive(Debug)]
pub struct Sum {
    warmup: Tally,
    measured: Tally,
    lateness: Histogram<u64>,
    unsent: u64,
    connect_errors: u64,
    reconnects: u64,
    served: Vec<u64>,
    sample: Option<String>,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            warmup: Tally::default(),
            measured: Tally::default(),
            lateness: latencies(),
            unsent: 0,
            connect_errors: 0,
            reconnects: 0,
            served: Vec::new(),
            sample: None,
        }
    }
}

impl Sum {
    /// Adds a thread's.
    pub fn add(&mut self, outcome: &Outcome) {
        self.warmup.merge(&outcome.warmup);
        self.measured.merge(&outcome.measured);
        merge(&mut self.lateness, &outcome.lateness);
        self.unsent += outcome.unsent;
        self.connect_errors += outcome.connect_errors;
        self.reconnects += outcome.reconnects;
        self.served.extend_from_slice(&outcome.served);
        self.sample = self.sample.take().or_else(|| outcome.sample.clone());
    }
}

/// What a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `closed` or `open`.
    pub mode: &'static str,
    /// Where the requests went.
    pub url: String,
    /// Keep-alive connections.
    pub connections: u32,
    /// Threads of the generator.
    pub threads: u8,
    /// Length of the measured window, in seconds.
    pub seconds: f64,
    /// Length of the warm-up, in seconds.
    pub warmup_seconds: f64,
    /// Requests due per second (open loop).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// What became of the measured requests.
    #[serde(flatten)]
    pub counts: Counts,
    /// 2xx per second.
    pub rps: f64,
    /// Answers of any status per second.
    pub answers_per_s: f64,
    /// Of 2xx, from the due time to the whole answer.
    pub latency_us: Percentiles,
    /// Of 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_429_us: Option<Percentiles>,
    /// From the due time to the sending of the request: the generator's own delay (open loop).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_delay_us: Option<Percentiles>,
    /// Measured requests that were due and never sent: no connection was free.
    pub unsent: u64,
    /// Handshakes that failed.
    pub connect_errors: u64,
    /// Connections that were opened again.
    pub reconnects: u64,
    /// How evenly the right answers are spread over the connections.
    pub fairness: Fairness,
    /// CPU time per process over the measured window; null for a process that could not be read.
    pub cpu: BTreeMap<String, Option<Cpu>>,
    /// Share of its threads' time for which the generator ran, 0 to 1.
    pub generator_busy: f64,
    /// What became of the requests of the warm-up.
    pub warmup: Counts,
    /// The beginning of the first wrong or malformed answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
}

/// How requests ended; the parts add up to `requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// 2xx with their own nonce.
    pub ok_2xx: u64,
    /// 429.
    pub busy_429: u64,
    /// Other statuses.
    pub other: BTreeMap<u16, u64>,
    /// 2xx without their own nonce.
    pub wrong: u64,
    /// Not an answer with a `Content-Length`.
    pub malformed: u64,
    /// The connection ended before the answer.
    pub lost: u64,
    /// No answer within the timeout.
    pub hung: u64,
}

/// Microseconds.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// Right answers per connection.
#[derive(Debug, Serialize)]
pub struct Fairness {
    /// Jain's index, (Σx)² / (n Σx²): 1 when all have the same, 1/n when one has everything; null without answers.
    pub jain: Option<f64>,
    /// The fewest that a connection got.
    pub min: u64,
    /// The most.
    pub max: u64,
}

/// CPU time of a process.
#[derive(Debug, Serialize)]
pub struct Cpu {
    /// User and system time of the window.
    #[serde(flatten)]
    pub usage: Usage,
    /// Both, divided by the answers of the window; null without answers.
    pub us_per_request: Option<f64>,
}

impl Report {
    /// Puts the numbers together.
    #[must_use]
    pub fn new(args: &Args, target: &Target, threads: u8, sum: &Sum, cpu: CpuTimes) -> Self {
        let measured = &sum.measured;
        let seconds = args.seconds.as_secs_f64();
        let own = cpu.get("generator").copied().flatten().unwrap_or_default();
        let per_request = |usage: Usage| ratio(float(usage.total_us()), float(measured.answered()));
        Self {
            mode: if args.rate.is_some() { "open" } else { "closed" },
            url: target.url.clone(),
            connections: args.connections,
            threads,
            seconds,
            warmup_seconds: args.warmup.as_secs_f64(),
            rate: args.rate.map(std::num::NonZeroU32::get),
            counts: Counts::of(measured),
            rps: ratio(float(measured.ok), seconds).unwrap_or_default(),
            answers_per_s: ratio(float(measured.answered()), seconds).unwrap_or_default(),
            latency_us: Percentiles::of(&measured.latency),
            latency_429_us: (measured.busy > 0).then(|| Percentiles::of(&measured.busy_latency)),
            send_delay_us: args.rate.map(|_| Percentiles::of(&sum.lateness)),
            unsent: sum.unsent,
            connect_errors: sum.connect_errors,
            reconnects: sum.reconnects,
            fairness: Fairness::of(&sum.served),
            cpu: cpu
                .into_iter()
                .map(|(name, usage)| (name, usage.map(|usage| Cpu { usage, us_per_request: per_request(usage) })))
                .collect(),
            generator_busy: ratio(float(own.total_us()) / 1e6, seconds * f64::from(threads)).unwrap_or_default(),
            warmup: Counts::of(&sum.warmup),
            sample: sum.sample.clone(),
        }
    }

    /// Whether the run is good: there were answers, and no request ended as none may, in the warm-up neither.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.answers_per_s > 0.0 && self.counts.faults() + self.warmup.faults() == 0
    }
}

impl Counts {
    fn of(tally: &Tally) -> Self {
        Self {
            requests: tally.requests(),
            ok_2xx: tally.ok,
            busy_429: tally.busy,
            other: tally.other.clone(),
            wrong: tally.wrong,
            malformed: tally.malformed,
            lost: tally.lost,
            hung: tally.hung,
        }
    }

    fn faults(&self) -> u64 {
        self.wrong + self.malformed + self.lost + self.hung
    }
}

impl Fairness {
    fn of(served: &[u64]) -> Self {
        let sum: f64 = served.iter().map(|count| float(*count)).sum();
        let squares: f64 = served.iter().map(|count| float(*count).powi(2)).sum();
        Self {
            jain: ratio(sum * sum, float(served.len() as u64) * squares),
            min: served.iter().copied().min().unwrap_or_default(),
            max: served.iter().copied().max().unwrap_or_default(),
        }
    }
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| rounded(float(histogram.value_at_quantile(quantile)) / 1e3);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: rounded(float(histogram.max()) / 1e3),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { requests, ok_2xx, busy_429, other, wrong, malformed, lost, hung } = &self.counts;
        let other: Vec<_> = other.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        write!(f, "{} loop", self.mode)?;
        if let Some(rate) = self.rate {
            write!(f, " at {rate}/s")?;
        }
        writeln!(f, ", {} connections, {} s: {:.0} right answers/s", self.connections, self.seconds, self.rps)?;
        writeln!(f, "  requests {requests}: 2xx {ok_2xx}, 429 {busy_429}, other {{{}}}", other.join(", "))?;
        writeln!(f, "  wrong {wrong}, malformed {malformed}, lost {lost}, hung {hung}, unsent {}", self.unsent)?;
        writeln!(f, "  latency     {}", self.latency_us)?;
        if let Some(latency) = &self.latency_429_us {
            writeln!(f, "  429 latency {latency}")?;
        }
        if let Some(delay) = &self.send_delay_us {
            writeln!(f, "  send delay  {delay}")?;
        }
        if let Fairness { jain: Some(jain), min, max } = self.fairness {
            writeln!(f, "  per connection: {min} to {max} right answers, Jain's index {jain:.3}")?;
        }
        for (name, cpu) in &self.cpu {
            match cpu.as_ref().and_then(|cpu| cpu.us_per_request) {
                Some(us) => writeln!(f, "  CPU {name}: {us:.2} µs/request")?,
                None => writeln!(f, "  CPU {name}: unknown")?,
            }
        }
        if self.warmup.faults() > 0 {
            writeln!(f, "  the warm-up had faults: {:?}", self.warmup)?;
        }
        if self.generator_busy > GENERATOR_BUSY_MAX {
            writeln!(
                f,
                "  the generator was busy {:.0} % of the time: it may be the limit",
                self.generator_busy * 100.0
            )?;
        }
        if self.unsent > 0 {
            writeln!(f, "  the rate was not reached: the latencies are lower bounds")?;
        }
        if let Some(sample) = &self.sample {
            writeln!(f, "  first bad answer: {sample:?}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p95, p99, p99_9, max } = self;
        write!(f, "p50 {p50:.0}  p90 {p90:.0}  p95 {p95:.0}  p99 {p99:.0}  p99.9 {p99_9:.0}  max {max:.0} µs")
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts and times of a run are far below 2^52")]
fn float(value: u64) -> f64 {
    value as f64
}

/// `None` when there is nothing to divide by.
fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| rounded(a / b))
}

/// Three decimals: what is behind them is noise.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_when_all_get_the_same_and_small_when_one_gets_all() {
        let jain = |served: &[u64]| Fairness::of(served).jain;
        assert_eq!(jain(&[3, 3, 3, 3]), Some(1.0));
        assert_eq!(jain(&[12, 0, 0, 0]), Some(0.25));
        assert_eq!((jain(&[]), jain(&[0, 0])), (None, None));
        let uneven = Fairness::of(&[1, 3]);
        assert_eq!((uneven.min, uneven.max, uneven.jain), (1, 3, Some(0.8)));
    }
}

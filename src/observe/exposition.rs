//! `/metrics` as text: `OpenMetrics` 1.0 for who asks for it, else the Prometheus text format 0.0.4.
//!
//! prometheus-client writes `OpenMetrics`. The older format differs in three kinds of comment lines only, so it is made
//! from the same text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::metrics::{BUCKETS_S, Kind, Samples, Value};

/// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content type and body for a client that sent this `Accept` header.
#[must_use]
pub fn encode(samples: &Samples, accept: Option<&str>) -> (&'static str, String) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(samples.clone()));
    let mut text = String::new();
    // Writing to a `String` cannot fail, and neither do our own encoders.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    if accept.is_some_and(asks_for_open_metrics) { (OPEN_METRICS, text) } else { (PROMETHEUS, to_prometheus(&text)) }
}

/// Whether the media type is listed with a weight other than 0 (RFC 9110, 12.5.1).
fn asks_for_open_metrics(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
        let weight = parts.find_map(|parameter| parameter.strip_prefix("q="));
        is_named && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

/// Counters are named with their suffix, and there is no end marker.
fn to_prometheus(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(text.len() + counters.len() * 16);
    for line in text.lines().filter(|line| *line != "# EOF") {
        let name = line.strip_prefix("# ").and_then(|comment| comment.split(' ').nth(1));
        match name.filter(|name| counters.contains(name)) {
            Some(name) => out.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (name, family) in &self.families {
            let kind = match family.kind {
                Kind::Counter | Kind::CounterUs => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (labels, value) in &family.series {
                if labels.is_empty() {
                    write_value(&mut metric, family.kind, value)?;
                } else {
                    write_value(&mut metric.encode_family(labels)?, family.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

fn write_value(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match kind {
        Kind::Counter => encoder.encode_counter(&u64::try_from(value.number).unwrap_or(u64::MAX), NO_EXEMPLAR),
        Kind::CounterUs => {
            encoder.encode_counter(&seconds(u64::try_from(value.number).unwrap_or(u64::MAX)), NO_EXEMPLAR)
        }
        Kind::Gauge => encoder.encode_gauge(&i64::try_from(value.number).unwrap_or(i64::MAX)),
        Kind::Histogram => {
            let bounds = BUCKETS_S.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(value.buckets.iter().copied()).collect();
            let count = value.buckets.iter().sum();
            encoder.encode_histogram::<NoLabelSet>(seconds(value.sum_us), count, &buckets, None)
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 us, which is 285 years")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::metrics::{self, Collect, Counter, Gauge, Histogram};
    use super::*;

    #[derive(Default)]
    struct Part {
        requests: Counter,
        open: Gauge,
        latency: Histogram,
        label: &'static str,
    }

    impl Collect for Part {
        fn collect(&self, samples: &mut Samples) {
            samples.counter("t_requests", "Requests.", &[("code", self.label)], self.requests.get());
            samples.gauge("t_open", "Open connections.", &[], self.open.get());
            samples.histogram("t_latency_seconds", "Latency.", &[("path", "/queue")], &self.latency);
            samples.counter_seconds("t_cpu_seconds", "CPU.", &[], Duration::from_millis(1250));
        }
    }

    /// Two parts of which every number is known.
    fn scrape(label: &'static str) -> Samples {
        let registry = metrics::Registry::default();
        for n in [1, 2] {
            let part = Part { label, ..Part::default() };
            part.requests.add(n);
            part.open.set(-3);
            part.latency.observe(Duration::from_micros(700));
            part.latency.observe(Duration::from_mins(1));
            registry.add(Arc::new(part));
        }
        registry.scrape()
    }

    /// One sample line: `name{label="value",…} number`, with `\\`, `\"` and `\n` as the only escapes.
    fn parse_line(line: &str) -> (String, BTreeMap<String, String>, f64) {
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{line}");
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"").unwrap();
                let mut value = String::new();
                let mut chars = after.char_indices();
                let end = loop {
                    match chars.next().unwrap() {
                        (at, '"') => break at,
                        (_, '\\') => value.push(match chars.next().unwrap().1 {
                            'n' => '\n',
                            c @ ('\\' | '"') => c,
                            c => panic!("escape {c:?} in {line}"),
                        }),
                        (_, c) => value.push(c),
                    }
                };
                assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice in {line}");
                rest = &after[end + 1..];
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').unwrap();
        }
        (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
    }

    /// All samples; checks on the way that each belongs to the family whose HELP and TYPE came last.
    fn parse(text: &str) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
        let mut samples = BTreeMap::new();
        let mut family = String::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<&str> = comment.splitn(3, ' ').collect();
                assert_eq!(words.len(), 3, "{line}");
                match words[0] {
                    "HELP" => words[1].clone_into(&mut family),
                    "TYPE" => assert_eq!((words[1], true), (&*family, "counter gauge histogram".contains(words[2]))),
                    other => panic!("comment {other}"),
                }
            } else {
                let (name, labels, value) = parse_line(line);
                assert!(name.starts_with(&family), "{name} is not of {family}");
                assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        samples
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn parts_are_summed_and_every_line_parses() {
        for accept in [None, Some("application/openmetrics-text")] {
            let samples = parse(&encode(&scrape("200"), accept).1);
            let get = |name: &str, pairs: &[(&str, &str)]| samples[&(name.to_owned(), labels(pairs))].to_string();
            assert_eq!(get("t_requests_total", &[("code", "200")]), "3");
            assert_eq!(get("t_open", &[]), "-6");
            assert_eq!(get("t_cpu_seconds_total", &[]), "2.5");
            assert_eq!(get("t_latency_seconds_count", &[("path", "/queue")]), "4");
            assert_eq!(get("t_latency_seconds_sum", &[("path", "/queue")]), "120.0014");
        }
    }

    #[test]
    fn buckets_are_cumulative() {
        let samples = parse(&encode(&scrape("200"), None).1);
        let bucket = |le: &str| {
            let key = ("t_latency_seconds_bucket".to_owned(), labels(&[("path", "/queue"), ("le", le)]));
            samples[&key].to_string()
        };
        assert_eq!([bucket("0.0005"), bucket("0.001"), bucket("10.0"), bucket("+Inf")], ["0", "2", "2", "4"]);
        let buckets = samples.keys().filter(|(name, _)| name == "t_latency_seconds_bucket").count();
        assert_eq!(buckets, BUCKETS_S.len() + 1);
    }

    #[test]
    fn label_values_are_escaped() {
        let evil = "a\"b\\c\nd";
        let samples = parse(&encode(&scrape(evil), None).1);
        assert!(samples.contains_key(&("t_requests_total".to_owned(), labels(&[("code", evil)]))));
    }

    #[test]
    fn each_client_gets_its_format() {
        let (kind, text) = encode(&scrape("200"), Some("text/plain;q=0.5, application/openmetrics-text;version=1.0.0"));
        assert_eq!(kind, OPEN_METRICS);
        assert!(text.contains("# TYPE t_requests counter\n") && text.ends_with("# EOF\n"));
        for accept in [None, Some("*/*"), Some("application/openmetrics-text;q=0")] {
            let (kind, text) = encode(&scrape("200"), accept);
            assert_eq!(kind, PROMETHEUS);
            assert!(text.contains("# HELP t_requests_total Requests.\n# TYPE t_requests_total counter\n"), "{text}");
            assert!(!text.contains("# EOF"));
        }
    }
}

//! What a value may be: parsers, the words that say what was expected, and how a value may be shown.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tracing_subscriber::EnvFilter;

use super::Secret;

/// Longest value that a message quotes, in characters; what is longer is cut.
const SHOWN_MAX: usize = 120;

/// Most reply partitions that a range may name: what a topic can sensibly have.
const PARTITIONS_MAX: usize = 10_000;

/// The kind of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A whole number.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A number with an optional fraction.
    Decimal {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An IP address, or `localhost`.
    Host,
    /// An IP address and a port.
    Address,
    /// `host:port`, several separated by commas.
    Servers,
    /// `redis://[user:password@]host[:port][/db]`.
    RedisUrl,
    /// A Kafka topic name.
    Topic,
    /// Printable ASCII without spaces.
    Name,
    /// `type/subtype`, several separated by commas.
    MediaTypes,
    /// Partition numbers and ranges.
    Partitions,
    /// `name=value`, several separated by `;`.
    Properties,
    /// A `tracing` filter.
    Filter,
}

impl Kind {
    /// What a value must be, to follow the word "expected".
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Decimal { min, max } => format!("a number from {min} to {max}"),
            Self::Choice(words) => words.join(" or "),
            Self::Host => "an IP address or localhost".into(),
            Self::Address => "IP address:port".into(),
            Self::Servers => "host:port, several separated by commas".into(),
            Self::RedisUrl => {
                "redis://[user:password@]host[:port][/db] or unix:///path (TLS is not compiled in)".into()
            }
            Self::Topic => "a topic name: 1 to 249 of letters, digits, '.', '_' and '-'".into(),
            Self::Name => "1 to 249 printable ASCII characters without spaces".into(),
            Self::MediaTypes => "type/subtype, several separated by commas".into(),
            Self::Partitions => "partition numbers and ranges, e.g. 0,1,4-7".into(),
            Self::Properties => "name=value of librdkafka, several separated by ';'".into(),
            Self::Filter => "a level (error, warn, info, debug, trace) or target=level, separated by commas".into(),
        }
    }

    /// The same for a table with a column of units: numbers give their range only.
    pub(super) fn range(&self) -> String {
        match self {
            Self::Integer { min, max } => format!("{min} to {max}"),
            Self::Decimal { min, max } => format!("{min} to {max}"),
            Self::Topic => "topic name".into(),
            Self::Name => "text".into(),
            Self::RedisUrl => "redis://[user:password@]host[:port][/db]".into(),
            Self::Filter => "level, or target=level".into(),
            Self::Choice(_)
            | Self::Host
            | Self::Address
            | Self::Servers
            | Self::MediaTypes
            | Self::Partitions
            | Self::Properties => self.expected(),
        }
    }

    /// The value as it may be printed: passwords taken out, control characters escaped, cut to a sensible length.
    /// A secret that cannot be understood is hidden as a whole.
    #[must_use]
    pub fn shown(&self, value: &str, secret: bool) -> String {
        let safe = match self {
            _ if !secret || value.is_empty() => value.to_owned(),
            Self::RedisUrl => redacted_url(value).unwrap_or_else(redacted),
            Self::Properties => properties(value).map_or_else(redacted, |pairs| {
                let names: Vec<_> = pairs.iter().map(|(name, _)| format!("{name}={}", redacted())).collect();
                names.join(";")
            }),
            _ => redacted(),
        };
        let escaped: String = safe.chars().flat_map(escape_control).collect();
        match escaped.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}…", &escaped[..end]),
            None => escaped,
        }
    }
}

fn escape_control(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = escaped.is_none().then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

fn redacted() -> String {
    "[redacted]".to_owned()
}

/// The URL without its password and its query, which may hold a password too; `None` if it is no Redis URL.
fn redacted_url(value: &str) -> Option<String> {
    let url = redis::parse_redis_url(redis(value)?.expose())?;
    let user = match (url.username(), url.password()) {
        ("", None) => String::new(),
        (user, None) => format!("{user}@"),
        (user, Some(_)) => format!("{user}:[redacted]@"),
    };
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let query = if url.query().is_some() { "?[redacted]" } else { "" };
    Some(format!("{}://{user}{host}{port}{}{query}", url.scheme(), url.path()))
}

/// A Redis URL that the client takes. The client itself decides; making one does not connect.
pub(super) fn redis(value: &str) -> Option<Secret> {
    redis::Client::open(value).ok().map(|_| Secret::new(value))
}

pub(super) fn integer(text: &str, min: u64, max: u64) -> Option<u64> {
    text.parse().ok().filter(|n| (min..=max).contains(n))
}

pub(super) fn decimal(text: &str, min: f64, max: f64) -> Option<f64> {
    text.parse().ok().filter(|n| (min..=max).contains(n))
}

pub(super) fn choice(text: &str, words: &[&str]) -> Option<String> {
    words.contains(&text).then(|| text.to_owned())
}

/// An IP address (IPv6 with or without brackets), or `localhost`.
pub(super) fn host(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    text.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let (name, port) = text.rsplit_once(':')?;
    match host(name)? {
        IpAddr::V6(_) if !name.starts_with('[') => None,
        ip => Some(SocketAddr::new(ip, port.parse().ok()?)),
    }
}

/// Brokers as librdkafka takes them: `[protocol://]host[:port]`, separated by commas.
pub(super) fn servers(text: &str) -> Option<String> {
    let mut servers = Vec::new();
    for server in text.split(',').map(str::trim) {
        let place = server.split_once("://").map_or(server, |(_, place)| place);
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (place, None),
        };
        let host_is_sound = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"/@?#;".contains(c));
        let port_is_sound = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if !host_is_sound || !port_is_sound {
            return None;
        }
        servers.push(server);
    }
    Some(servers.join(","))
}

/// Kafka: `org.apache.kafka.common.internals.Topic.validate`.
pub(super) fn topic(text: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (text.len() <= 249 && text != "." && text != ".." && text.chars().all(legal)).then(|| text.to_owned())
}

pub(super) fn name(text: &str) -> Option<String> {
    (text.len() <= 249 && text.chars().all(|c| c.is_ascii_graphic())).then(|| text.to_owned())
}

/// Media types in lower case, without parameters.
pub(super) fn media_types(text: &str) -> Option<Vec<String>> {
    let token =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+*".contains(c));
    text.split(',')
        .map(|one| one.trim().to_ascii_lowercase())
        .map(|one| one.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub)).then_some(one))
        .collect()
}

/// `0,1,4-7` → `[0, 1, 4, 5, 6, 7]`, sorted, each once.
pub(super) fn partitions(text: &str) -> Option<Vec<i32>> {
    let mut all = std::collections::BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last {
            return None;
        }
        all.extend(i32::from(first)..=i32::from(last));
        if all.len() > PARTITIONS_MAX {
            return None;
        }
    }
    Some(all.into_iter().collect())
}

/// `a.b=c;d.e=f`. A value may contain `=`, but not `;`.
pub(super) fn properties(text: &str) -> Option<Vec<(String, Secret)>> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.split(';')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let name = name.trim();
            (!name.is_empty() && name.chars().all(legal)).then(|| (name.to_owned(), Secret::new(value.trim())))
        })
        .collect()
}

pub(super) fn filter(text: &str) -> Option<String> {
    // A word alone is also a target, for which everything is logged, and for the rest nothing: a slip in a level.
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_slip = |part: &str| {
        let is_word = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_word && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part))
    };
    let has_slip = text.split(',').any(|part| is_slip(part.trim()));
    EnvFilter::builder().parse(text).ok().filter(|_| !has_slip).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(host("localhost"), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(host("[::1]"), host("::1"));
        assert_eq!(host("example.org"), None);
        assert_eq!(address("localhost:9000"), Some("127.0.0.1:9000".parse().unwrap()));
        assert_eq!(address("[::]:9000"), Some("[::]:9000".parse().unwrap()));
        assert_eq!(address("::1:9000"), None, "ambiguous without brackets");
        assert_eq!(address("127.0.0.1"), None);
    }

    #[test]
    fn brokers() {
        assert_eq!(servers("a:9092, b:9093").as_deref(), Some("a:9092,b:9093"));
        assert!(servers("PLAINTEXT://a:9092").is_some());
        assert!(servers("a").is_some() && servers("[::1]:9092").is_some() && servers("[::1]").is_some());
        for wrong in ["", "a:9092,", "a:port", "a:0", "a:70000", ":9092", "a b:9092", "u:p@h:1/x"] {
            assert_eq!(servers(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn reply_partitions() {
        assert_eq!(partitions("0,1,4-7"), Some(vec![0, 1, 4, 5, 6, 7]));
        assert_eq!(partitions("3, 3 ,1-3"), Some(vec![1, 2, 3]));
        for wrong in ["", "a", "-1", "3-1", "1-", "0-65535", "1,,2"] {
            assert_eq!(partitions(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_words_and_names() {
        assert_eq!(integer("07", 1, 10), Some(7));
        assert_eq!(integer("-1", 0, 10), None);
        assert_eq!(decimal("0.5", 0.0, 1.0), Some(0.5));
        assert_eq!(decimal("NaN", 0.0, 1.0), None);
        assert_eq!(choice("all", &["1", "all"]).as_deref(), Some("all"));
        assert_eq!(topic(".."), None);
        assert_eq!(topic("a/b"), None);
        assert_eq!(name("a b"), None);
        assert_eq!(media_types("Application/XML, text/*"), Some(vec!["application/xml".into(), "text/*".into()]));
        assert_eq!(media_types("xml"), None);
        assert!(filter("info,thousandx=debug").is_some() && filter("thousandx=loud").is_none());
        assert!(filter("WARN").is_some() && filter("wran").is_none() && filter("info,wran").is_none());
        assert!(filter("thousandx::kafka").is_some(), "a target alone");
    }

    #[test]
    fn passwords_are_never_shown() {
        let url = |value| Kind::RedisUrl.shown(value, true);
        assert_eq!(url("redis://u:canary@h:1/2"), "redis://u:[redacted]@h:1/2");
        assert_eq!(url("redis://:canary@h"), "redis://:[redacted]@h");
        assert_eq!(url("unix:///run/redis.sock?pass=canary"), "unix:///run/redis.sock?[redacted]");
        assert_eq!(url("redis://h:1"), "redis://h:1");
        for broken in ["canary", "redis:/:canary@", "rediss://u:canary@h", "redis://u:canary@h/notadb"] {
            assert_eq!(url(broken), "[redacted]", "{broken}");
        }
        let pairs = |value| Kind::Properties.shown(value, true);
        assert_eq!(pairs("a.b=canary; c=d=canary"), "a.b=[redacted];c=[redacted]");
        assert_eq!(pairs("canary"), "[redacted]");
    }

    #[test]
    fn what_is_shown_is_escaped_and_short() {
        assert_eq!(Kind::Name.shown("a\n\u{1b}[31m", false), "a\\n\\u{1b}[31m");
        assert_eq!(Kind::Name.shown(&"é".repeat(1000), false).chars().count(), SHOWN_MAX + 1);
    }
}

//! Secrets that must not be seen anywhere. Every Redis of a fault test requires the first, every `KAFKA_CONFIG` has the
//! second, and whatever a server or worker says (log, answers, metrics, `/readyz?verbose`) is searched for both.

/// The password of a Redis that [`super::redis::RedisServer::start_secured`] started.
pub const REDIS: &str = "canary-redis-password";
/// A value in `KAFKA_CONFIG`. Without SASL the brokers are not told it.
pub const KAFKA: &str = "canary-kafka-password";

/// A `KAFKA_CONFIG` with a secret in it.
pub fn kafka_config() -> String {
    format!("sasl.password={KAFKA}")
}

/// Whether a secret is to be seen.
pub fn is_in(text: &str) -> bool {
    text.contains(REDIS) || text.contains(KAFKA)
}

/// Fails the test when a secret is to be seen, and says in which line.
pub fn assert_absent(what: &str, text: &str) {
    if let Some(line) = text.lines().find(|line| is_in(line)) {
        panic!("a secret is to be seen in {what}: {line}");
    }
}

//! What can go wrong with Redis, as one word for the metrics and one line for the log.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Longest text of an error in the log, in characters.
const TEXT_MAX: usize = 200;

/// The metric label of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No reply within `REDIS_TIMEOUT_MS`.
    Timeout,
    /// The connection could not be made, or broke.
    Connect,
    /// The server is a replica: a failover is under way.
    ReadOnly,
    /// The server is out of memory.
    Oom,
    /// Wrong or missing credentials, or no permission.
    Auth,
    /// Anything else, with its text in the log.
    Other,
}

impl FaultKind {
    /// Every kind, in the order of its discriminant.
    pub const ALL: [Self; 6] = [Self::Timeout, Self::Connect, Self::ReadOnly, Self::Oom, Self::Auth, Self::Other];

    /// The word in `/metrics`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::ReadOnly => "readonly",
            Self::Oom => "oom",
            Self::Auth => "auth",
            Self::Other => "other",
        }
    }
}

/// A failed call or connect.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// One short line, without URL and password.
    pub(super) text: String,
}

impl Fault {
    pub(super) fn timeout() -> Self {
        Self { kind: FaultKind::Timeout, text: "no reply in time".into() }
    }

    pub(super) fn out_of_memory() -> Self {
        Self { kind: FaultKind::Oom, text: "the server is out of memory (maxmemory)".into() }
    }

    pub(super) fn unexpected_reply() -> Self {
        Self { kind: FaultKind::Other, text: "a reply of an unexpected shape".into() }
    }

    /// Classifies an error of the client. `password` is cut out of the text, should a server ever echo it.
    pub(super) fn new(error: &RedisError, password: Option<&str>) -> Self {
        let mut text = error.to_string().replace(['\r', '\n'], " ");
        let kind = classify(error, &text);
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            text = text.replace(password, "[redacted]");
        }
        Self { kind, text: text.chars().take(TEXT_MAX).collect() }
    }
}

fn classify(error: &RedisError, text: &str) -> FaultKind {
    if error.is_timeout() {
        return FaultKind::Timeout;
    }
    match (error.kind(), error.code()) {
        (ErrorKind::Io, _) => FaultKind::Connect,
        (ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm), _)
        | (_, Some("NOAUTH" | "WRONGPASS")) => FaultKind::Auth,
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => FaultKind::ReadOnly,
        (_, Some("OOM")) => FaultKind::Oom,
        // Redis 6 wraps what a command in a script says: "ERR Error running script … -READONLY You can't write …".
        _ if text.contains("READONLY") => FaultKind::ReadOnly,
        _ if text.contains("OOM ") => FaultKind::Oom,
        _ => FaultKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_error(line: &str) -> RedisError {
        ::redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn the_order_of_kinds_is_the_order_of_their_counters() {
        for (index, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }

    #[test]
    fn classifies_what_servers_say() {
        for (line, kind) in [
            ("READONLY You can't write against a read only replica.", FaultKind::ReadOnly),
            ("ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write", FaultKind::ReadOnly),
            ("OOM command not allowed when used memory > 'maxmemory'.", FaultKind::Oom),
            ("NOAUTH Authentication required.", FaultKind::Auth),
            ("WRONGPASS invalid username-password pair or user is disabled.", FaultKind::Auth),
            ("NOPERM this user has no permissions to run the 'evalsha' command", FaultKind::Auth),
            ("MISCONF Redis is configured to save RDB snapshots", FaultKind::Other),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", FaultKind::Other),
        ] {
            assert_eq!(Fault::new(&server_error(line), None).kind, kind, "{line}");
        }
    }

    #[test]
    fn a_connection_error_is_told_from_a_timeout() {
        let kind = |kind: std::io::ErrorKind| Fault::new(&std::io::Error::from(kind).into(), None).kind;
        assert_eq!(kind(std::io::ErrorKind::ConnectionRefused), FaultKind::Connect);
        assert_eq!(kind(std::io::ErrorKind::UnexpectedEof), FaultKind::Connect);
        assert_eq!(kind(std::io::ErrorKind::TimedOut), FaultKind::Timeout);
    }

    #[test]
    fn the_text_has_no_password_and_one_line() {
        let fault = Fault::new(&server_error("ERR who sends 'canary-7' here"), Some("canary-7"));
        assert!(!fault.text.contains("canary-7"), "{}", fault.text);
        assert!(!Fault::new(&server_error(&"x".repeat(5_000)), None).text.contains('\n'));
        assert!(Fault::new(&server_error(&format!("ERR {}", "x".repeat(5_000))), None).text.len() <= TEXT_MAX);
    }
}

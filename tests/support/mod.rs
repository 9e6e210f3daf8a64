//! What the integration tests share: real processes, each owned by its test and ended with it, and clients that check
//! what they get.
//!
//! Every test file says `mod support;`. Nothing here sleeps as synchronisation: [`wait_until`] looks again and again for
//! the state itself, up to a deadline, and a deadline that passes fails the test with the log of the process.

#![allow(dead_code, reason = "every test file is a crate of its own and uses only a part of this module")]

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub mod canary;
pub mod checker;
pub mod http;
pub mod kafka;
pub mod load;
pub mod metrics;
pub mod process;
pub mod python;
pub mod redis;
pub mod rows;
pub mod server;
pub mod stack;
pub mod toxiproxy;

/// Between two looks of [`wait_until`].
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Temporary directories start with this and the process id of their owner.
const SCRATCH: &str = "thousandx-test-";

/// Looks until `condition` gives a value, for at most `limit`; `None` when it never did.
pub fn wait_until<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY); // bounded poll: until the deadline
    }
}

/// A free TCP port on loopback, chosen by the kernel and given out once by this process. Another process may still take
/// it first, so who binds it has to be ready to try again.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// A temporary directory that names its owner. What a test binary shares is never dropped, so the first call of the next
/// one removes the directories of those that have ended.
pub fn scratch_dir(purpose: &str) -> TempDir {
    static CLEAN: Once = Once::new();
    CLEAN.call_once(remove_leftovers);
    let prefix = format!("{SCRATCH}{}-{purpose}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary directory")
}

fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(SCRATCH).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if std::fs::exists(format!("/proc/{owner}")).is_ok_and(|alive| !alive) {
            // Another test binary may be at it too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// `127.0.0.1:port`.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a script of the repository that fills the cache and prints the path of what it filled.
///
/// # Panics
///
/// With what the script said, which is how to get what is missing.
pub fn cached(script: &str, args: &[&str]) -> PathBuf {
    try_cached(script, args).unwrap_or_else(|error| panic!("{error}"))
}

/// The same; an error says how to get what is missing.
pub fn try_cached(script: &str, args: &[&str]) -> Result<PathBuf, String> {
    let output = Command::new("bash")
        .arg(repository(script))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("bash could not be started for {script}: {error}"));
    if !output.status.success() {
        return Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let printed = String::from_utf8(output.stdout).expect("a path in UTF-8");
    Ok(PathBuf::from(printed.trim_end()))
}

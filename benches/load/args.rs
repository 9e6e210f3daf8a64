//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cpu::Process;
use crate::task::Template;

/// Most connections of one run: what a loopback address has ports for.
const CONNECTIONS_MAX: u32 = 20_000;

/// HTTP load for POST /queue in which every answer is checked to belong to its request.
///
/// Closed loop by default: each connection sends its next request when its answer is there. With --rate an open loop:
/// requests are due at fixed times, and latency counts from the due time however late the answer before it was.
/// Exit code 1 when an answer was wrong, malformed, lost or too late, or when there was none.
#[derive(Debug, Clone, Parser)]
#[command(name = "load")]
pub struct Args {
    /// Where to send, e.g. <http://127.0.0.1:8000/queue>.
    #[arg(long)]
    pub url: Option<String>,
    /// Keep-alive connections.
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub connections: u32,
    /// Threads; at most one per connection. Default: one per core.
    #[arg(long)]
    pub threads: Option<NonZeroU8>,
    /// Measured seconds, after the warm-up.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Seconds before, which are checked but not measured.
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
    /// Open loop at this many requests per second.
    #[arg(long)]
    pub rate: Option<NonZeroU32>,
    /// Seconds after which an answer counts as hung; above the server's own deadline.
    #[arg(long, default_value = "15", value_parser = seconds)]
    pub timeout: Duration,
    /// A process whose CPU time is reported, as NAME=PID; may be repeated.
    #[arg(long, value_name = "NAME=PID")]
    pub cpu: Vec<Process>,
    /// Where to write the report as JSON.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// `cargo bench` passes this to every bench; nothing to do then.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A server and what to ask it.
#[derive(Debug, Clone)]
pub struct Target {
    /// As it was given.
    pub url: String,
    /// Its address.
    pub server: SocketAddr,
    /// The request.
    pub template: Template,
}

impl Args {
    /// Threads to use: never more than connections.
    pub fn threads(&self) -> Result<u8> {
        let wanted = match self.threads {
            Some(given) => given.get(),
            None => u8::try_from(std::thread::available_parallelism()?.get()).unwrap_or(u8::MAX),
        };
        Ok(u8::try_from(self.connections).map_or(wanted, |connections| wanted.min(connections)))
    }
}

impl Target {
    /// Reads a URL and looks up its host.
    pub fn new(url: &str) -> Result<Self> {
        let uri: http::Uri = url.parse().with_context(|| format!("not a URL: {url}"))?;
        if uri.scheme_str() != Some("http") {
            bail!("only http:// is spoken: {url}");
        }
        let host = uri.host().context("the URL has no host")?.trim_matches(['[', ']']);
        let authority = uri.authority().context("the URL has no host")?.as_str();
        let server = (host, uri.port_u16().unwrap_or(80))
            .to_socket_addrs()
            .with_context(|| format!("cannot look up {host}"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        Ok(Self { url: url.to_owned(), server, template: Template::new(authority, path) })
    }
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds: f64 = text.parse().context("not a number of seconds")?;
    if !(0.0..=3600.0).contains(&seconds) {
        bail!("between 0 and 3600 seconds");
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let target = Target::new("http://127.0.0.1:8000/queue").unwrap();
        assert_eq!(target.server, "127.0.0.1:8000".parse().unwrap());
        assert_eq!(Target::new("http://[::1]/queue").unwrap().server, "[::1]:80".parse().unwrap());
        for bad in ["", "127.0.0.1:8000", "https://127.0.0.1/", "http://"] {
            assert!(Target::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_the_command_line() {
        let args =
            Args::try_parse_from(["load", "--connections", "1", "--seconds", "0.5", "--cpu", "server=1"]).unwrap();
        assert_eq!(args.threads().unwrap(), 1, "never more threads than connections");
        assert_eq!(args.seconds, Duration::from_millis(500));
        for bad in [["--connections", "0"], ["--rate", "0"], ["--seconds", "-1"], ["--cpu", "server"]] {
            assert!(Args::try_parse_from(["load", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
    }
}

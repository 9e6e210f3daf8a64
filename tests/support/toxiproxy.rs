//! Links that are slow, narrow, silent or cut: toxiproxy between a server and what it depends on. What neither signals
//! nor switches of Redis and Kafka can do.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Raw, Response};
use super::process::{Process, command};
use super::{free_port, loopback, scratch_dir, try_cached, wait_until};

/// A start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(10);
/// One call of its API.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// The port was free when it was chosen; somebody may take it before the proxy does.
const START_TRIES_MAX: u32 = 3;

/// A running toxiproxy; ends when dropped.
pub struct Toxiproxy {
    process: Process,
    api: SocketAddr,
    _dir: TempDir,
}

/// A port whose traffic goes to another one, as well or as badly as the test says.
pub struct Link {
    api: SocketAddr,
    name: String,
    port: u16,
}

impl Toxiproxy {
    /// Starts one.
    ///
    /// # Errors
    /// Why it cannot be had on this machine.
    pub fn start() -> Result<Self, String> {
        let binary = try_cached("scripts/lib/toxiproxy.sh", &["fetch"])?;
        let mut tries = 0;
        loop {
            tries += 1;
            let (port, dir) = (free_port(), scratch_dir("toxiproxy"));
            let mut proxy = command(&binary);
            proxy.args(["-host", "127.0.0.1", "-port", &port.to_string()]);
            let process = Process::spawn("toxiproxy", proxy, dir.path().join("log"));
            let mut proxy = Self { process, api: loopback(port), _dir: dir };
            let seen = wait_until(START_LIMIT, || match proxy.process.exited() {
                Some(_) => Some(false),
                None => super::http::get(proxy.api, "/proxies", CALL_LIMIT).is_ok().then_some(true),
            });
            match seen {
                Some(true) => return Ok(proxy),
                Some(false) if tries < START_TRIES_MAX => {}
                _ => proxy.process.fail("does not answer"),
            }
        }
    }

    /// A link to a port on loopback, sound at first. The name is one of its own.
    pub fn link(&self, name: &str, port: u16) -> Link {
        let (listen, upstream) = ("127.0.0.1:0", loopback(port).to_string());
        let proxy = json!({"name": name, "listen": listen, "upstream": upstream, "enabled": true});
        let answer = call(self.api, "POST", "/proxies", &proxy).json();
        let address = answer["listen"].as_str().and_then(|address| address.parse::<SocketAddr>().ok());
        let port = address.unwrap_or_else(|| panic!("a link's address in {answer}")).port();
        Link { api: self.api, name: name.to_owned(), port }
    }
}

impl Link {
    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every answer takes so much longer.
    pub fn slow(&self, by: Duration) {
        self.spoil("latency", "downstream", &json!({"latency": by.as_millis()}));
    }

    /// So many KB a second in each direction.
    pub fn narrow(&self, kilobytes_per_s: u32) {
        for stream in ["upstream", "downstream"] {
            self.spoil("bandwidth", stream, &json!({"rate": kilobytes_per_s}));
        }
    }

    /// A black hole: connections are there and can be made, and nothing goes through.
    pub fn silence(&self) {
        for stream in ["upstream", "downstream"] {
            self.spoil("timeout", stream, &json!({"timeout": 0}));
        }
    }

    /// Every connection is reset, also those that are made anew.
    pub fn reset(&self) {
        self.spoil("reset_peer", "downstream", &json!({"timeout": 0}));
    }

    /// Connections end, and no new one is accepted.
    pub fn cut(&self) {
        call(self.api, "POST", &format!("/proxies/{}", self.name), &json!({"enabled": false}));
    }

    /// Sound again.
    pub fn mend(&self) {
        call(self.api, "POST", &format!("/proxies/{}", self.name), &json!({"enabled": true}));
        let toxics = call(self.api, "GET", &format!("/proxies/{}/toxics", self.name), &Value::Null).json();
        for toxic in toxics.as_array().expect("a list of toxics") {
            let name = toxic["name"].as_str().expect("a toxic's name");
            call(self.api, "DELETE", &format!("/proxies/{}/toxics/{name}", self.name), &Value::Null);
        }
    }

    fn spoil(&self, kind: &str, stream: &str, attributes: &Value) {
        let toxic = json!({"type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes});
        call(self.api, "POST", &format!("/proxies/{}/toxics", self.name), &toxic);
    }
}

fn call(api: SocketAddr, method: &str, path: &str, body: &Value) -> Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut connection = Raw::connect(api);
    let length = body.len();
    connection.send(
        format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        )
        .as_bytes(),
    );
    let answer = connection.response(CALL_LIMIT).unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
    assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
    answer
}

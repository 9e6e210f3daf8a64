//! A real `redis-server` of a test's own: on a port that the kernel chose, without persistence, ended on drop.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{canary, process, scratch_dir};

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(10);
/// How often another port is tried when somebody else took the chosen one first.
const PORTS_MAX: usize = 5;

/// A running server, or one that was killed and can be restarted on its port.
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    password: Option<&'static str>,
    directory: TempDir,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same, and it requires the password [`canary::REDIS`].
    pub fn start_secured() -> Self {
        Self::start_with(Some(canary::REDIS))
    }

    fn start_with(password: Option<&'static str>) -> Self {
        let mut server = Self { child: None, port: 0, password, directory: scratch_dir("redis") };
        for _ in 0..PORTS_MAX {
            server.port = free_port();
            if server.try_restart() {
                return server;
            }
        }
        panic!("redis-server did not start; its log:\n{}", server.log());
    }

    /// `redis://` URL of the server, with its password if it has one.
    pub fn url(&self) -> String {
        self.url_by(self.port)
    }

    /// The same by another port, from which a proxy leads to it.
    pub fn url_by(&self, port: u16) -> String {
        let login = self.password.map_or_else(String::new, |password| format!(":{password}@"));
        format!("redis://{login}127.0.0.1:{port}")
    }

    /// The port, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends the server as a crash would (SIGKILL). The port refuses connections afterwards.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server is ours to kill");
            child.wait().expect("the server ends");
        }
    }

    /// Starts the server again on its port, empty, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.try_restart(), "redis-server did not restart; its log:\n{}", self.log());
    }

    /// Freezes the server: connections stay, nothing is answered.
    pub fn sigstop(&self) {
        self.signal("-STOP");
    }

    /// Ends [`RedisServer::sigstop`].
    pub fn sigcont(&self) {
        self.signal("-CONT");
    }

    /// A plain blocking connection for checks and `CONFIG SET`; every reply within `START_MAX`.
    pub fn client(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("a plain URL");
        let connection = client.get_connection_with_timeout(START_MAX).expect("a connection to the test's server");
        connection.set_read_timeout(Some(START_MAX)).expect("a timeout");
        connection
    }

    fn try_restart(&mut self) -> bool {
        let log = File::create(self.directory.path().join("log")).expect("a log file");
        let mut command = process::command("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--loglevel", "notice", "--daemonize", "no"])
            .args(self.password.iter().flat_map(|password| ["--requirepass", password, "--masterauth", password]))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a second handle of the log"))
            .stdout(log);
        let child = process::spawn_for_life(command)
            .expect("redis-server must be in PATH: apt-get install redis-server, or brew install redis");
        self.child = Some(child);
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline && self.is_alive() {
            if self.ping().is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5)); // bounded poll: until the deadline above
        }
        self.kill();
        false
    }

    fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn ping(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        // Who asks for a password serves.
        if matches!(&answer, b"+PONG\r\n" | b"-NOAUTH") { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("a running server").id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill(1)");
        assert!(status.success(), "kill {signal} {pid}");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

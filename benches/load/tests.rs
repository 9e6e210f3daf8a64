//! Tests of the load generator: the unit tests of its modules, and whole runs against a small server in this process
//! whose answers are right or broken on purpose. What the generator counts must be exactly what that server did.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod args;
mod conn;
mod cpu;
mod driver;
mod report;
mod response;
mod run;
mod schedule;
mod tally;
mod task;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use args::{Args, Target};
use clap::Parser;
use report::Report;

/// What the server does with a request's body; `false` ends the connection.
type Behaviour = fn(&mut TcpStream, &str) -> bool;

/// A blocking server on a free port; stops accepting when dropped. Its connections end with the clients'.
struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Server {
    fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), stopped: Arc::default() };
        let stopped = Arc::clone(&server.stopped);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept()
                && !stopped.load(Ordering::Relaxed)
            {
                thread::spawn(move || serve(stream, behaviour));
            }
        });
        server
    }

    /// A run of a third of a second with these arguments.
    fn load(&self, more: &[&str]) -> Report {
        let base = ["load", "--connections", "4", "--threads", "2", "--seconds", "0.3", "--warmup", "0.05"];
        let args = Args::try_parse_from(base.iter().chain(more)).unwrap();
        let target = Target::new(&format!("http://{}/queue", self.address)).unwrap();
        run::run(&args, &target).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, behaviour: Behaviour) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut body_bytes = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(length) = line.strip_prefix("Content-Length: ") {
                body_bytes = length.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; body_bytes];
        if reader.read_exact(&mut body).is_err() || !behaviour(&mut stream, std::str::from_utf8(&body).unwrap()) {
            return;
        }
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn echo(stream: &mut TcpStream, body: &str) -> bool {
    stream.write_all(answer("200 OK", body).as_bytes()).is_ok()
}

#[test]
fn counts_right_answers() {
    let report = Server::start(echo).load(&[]);
    assert!(report.passed(), "{report}");
    assert!(report.counts.ok_2xx > 0 && report.counts.requests == report.counts.ok_2xx, "{report}");
    assert!(report.warmup.ok_2xx > 0, "{report}");
    assert!(report.cpu.get("generator").is_some_and(Option::is_some), "{report}");
}

#[test]
fn an_open_loop_sends_every_request_that_is_due() {
    let report = Server::start(echo).load(&["--rate", "1000"]);
    assert!(report.passed(), "{report}");
    assert_eq!((report.counts.ok_2xx, report.unsent), (300, 0), "{report}");
}

#[test]
fn reads_answers_in_single_bytes() {
    let report = Server::start(|stream, body| {
        answer("200 OK", body).as_bytes().iter().all(|byte| stream.write_all(&[*byte]).is_ok())
    })
    .load(&[]);
    assert!(report.passed(), "{report}");
}

#[test]
fn another_requests_answer_is_wrong() {
    let report = Server::start(|stream, _| echo(stream, r#"{"nonce":"0000000000000000"}"#)).load(&[]);
    assert!(!report.passed() && report.counts.wrong > 0 && report.counts.ok_2xx == 0, "{report}");
    assert!(report.sample.is_some_and(|sample| sample.contains("0000000000000000")));
}

#[test]
fn other_statuses_count_apart() {
    let report = Server::start(|stream, body| {
        let odd = body.as_bytes()[body.len() - 3].is_ascii_digit();
        let status = if odd { "429 Too Many Requests" } else { "503 Service Unavailable" };
        stream.write_all(answer(status, "{}").as_bytes()).is_ok()
    })
    .load(&[]);
    assert!(report.passed(), "refusals are answers: {report}");
    let unavailable = report.counts.other.get(&503).copied().unwrap_or(0);
    assert!(report.counts.busy_429 > 0 && unavailable > 0, "{report}");
    assert_eq!(report.counts.requests, report.counts.busy_429 + unavailable, "{report}");
}

#[test]
fn a_connection_that_ends_without_an_answer_is_a_lost_request() {
    let report = Server::start(|stream, body| {
        let half = answer("200 OK", body);
        let _ = stream.write_all(&half.as_bytes()[..half.len() / 2]);
        false
    })
    .load(&[]);
    assert!(!report.passed() && report.counts.lost > 0 && report.counts.ok_2xx == 0, "{report}");
    assert!(report.reconnects > 0, "{report}");
}

#[test]
fn a_server_may_close_after_each_answer() {
    let said = |stream: &mut TcpStream, body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all((head + body).as_bytes());
        false
    };
    let report = Server::start(said).load(&[]);
    assert!(report.passed() && report.counts.ok_2xx > 0 && report.reconnects > 0, "{report}");
}

#[test]
fn no_answer_in_time_is_a_hung_request() {
    let report = Server::start(|_, _| true).load(&["--timeout", "0.1"]);
    assert!(!report.passed() && report.counts.hung > 0 && report.counts.requests == report.counts.hung, "{report}");
}

#[test]
fn chunked_answers_are_malformed() {
    let report = Server::start(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").is_ok()
    })
    .load(&[]);
    assert!(!report.passed() && report.counts.malformed > 0, "{report}");
}

#[test]
fn requests_that_no_connection_was_free_for_are_told() {
    let report = Server::start(|_, _| true).load(&["--rate", "1000", "--timeout", "0.5"]);
    assert_eq!(report.unsent, 300, "four wait from the warm-up on: {report}");
    assert_eq!(report.warmup.hung, 4, "{report}");
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let args = Args::try_parse_from(["load", "--connections", "1"]).unwrap();
    let target = Target::new(&format!("http://{address}/queue")).unwrap();
    let error = run::run(&args, &target).unwrap_err();
    assert!(error.to_string().contains("connections"), "{error:#}");
}

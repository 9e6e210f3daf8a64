//! A load client that checks what it gets: N keep-alive connections, one request at a time on each, every body with a
//! nonce of its own. An answer that belongs to another request, a request without an answer and a connection that ends in
//! the middle are all counted and kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::canary;
use super::http::{Method, Response, parse, post_queue};

/// Requests whose history is kept; the counts go on beyond.
const HISTORY_MAX: usize = 200_000;
/// Complaints that are kept with their text.
const COMPLAINTS_MAX: usize = 20;
/// After a connection was lost or refused, so that a server that is down is not stormed.
const RECONNECT_AFTER: Duration = Duration::from_millis(10);
/// Latencies up to a minute, in µs, with three digits.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Says whether a 200 belongs to the request with this nonce.
pub type Check = fn(nonce: &str, answer: &Response) -> bool;

/// What to send, and how much.
#[derive(Clone)]
pub struct Load {
    address: SocketAddr,
    after_close: Option<SocketAddr>,
    connections: usize,
    duration: Duration,
    answer_limit: Duration,
    requests_max: u64,
    check: Check,
}

/// How one request went; times since the start of the load.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// What the body carried.
    pub nonce: String,
    /// Sent.
    pub start: Duration,
    /// Answered or given up.
    pub end: Duration,
    /// The status of the answer; `None`: there was none.
    pub status: Option<u16>,
}

/// What came back.
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Problem documents by their code.
    pub by_code: BTreeMap<String, u64>,
    /// Answers that are not what their request may get: another one's, no problem document, not HTTP,
    /// a secret in an error.
    pub wrong: u64,
    /// Requests on a connection that ended before the answer.
    pub lost: u64,
    /// Requests without an answer within the limit.
    pub hung: u64,
    /// Connections refused.
    pub refused: u64,
    /// From sent to complete answer, in µs, of the 200s only.
    pub latency_us: Histogram<u64>,
    /// The first complaints in words, for failure messages.
    pub complaints: Vec<String>,
    /// The first requests, in the order in which they ended per connection.
    pub history: Vec<Exchange>,
}

/// A load that runs in the background.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Report>,
}

impl Load {
    /// One connection for five seconds, with up to 15 s for an answer (the default deadline, and more).
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            after_close: None,
            connections: 1,
            duration: Duration::from_secs(5),
            answer_limit: Duration::from_secs(15),
            requests_max: u64::MAX,
            check: carries_nonce,
        }
    }

    /// A client that is told `Connection: close` goes on at this address, as behind a load balancer.
    pub fn after_close(mut self, address: SocketAddr) -> Self {
        self.after_close = Some(address);
        self
    }

    /// How many connections, each with one request at a time.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// The longest that new requests are sent.
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// How long an answer may take before its request counts as hung.
    pub fn answer_limit(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    /// The most requests per connection.
    pub fn requests_max(mut self, requests: u64) -> Self {
        self.requests_max = requests;
        self
    }

    /// Another check of the 200s than that their body carries the nonce.
    pub fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Report {
        self.start().join()
    }

    /// Starts it on a thread of its own.
    pub fn start(self) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(self.drive(seen))
        });
        Running { stop, thread }
    }

    async fn drive(self, stop: Arc<AtomicBool>) -> Report {
        let start = Instant::now();
        // Nonces of two loads, also of two runs, have to differ.
        let run: u32 = rand::random();
        let mut clients = JoinSet::new();
        for number in 0..self.connections {
            let client = Client {
                load: self.clone(),
                stop: Arc::clone(&stop),
                start,
                name: format!("{run:08x}-{number}"),
                report: Report::new(),
            };
            clients.spawn(client.run());
        }
        let mut total = Report::new();
        while let Some(report) = clients.join_next().await {
            total.add(report.expect("a client does not panic"));
        }
        total
    }
}

impl Running {
    /// Sends no more, waits for the answers that are still due, and reports.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits for its end and reports.
    pub fn join(self) -> Report {
        match self.thread.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Report {
    /// Answers with this status.
    pub fn count(&self, status: u16) -> u64 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }

    /// The longest from sent to answered or given up, of those in the history.
    pub fn slowest(&self) -> Duration {
        self.history.iter().map(|exchange| exchange.end.saturating_sub(exchange.start)).max().unwrap_or_default()
    }

    /// Fails the test unless every request got one answer that was its own.
    pub fn assert_sound(&self) {
        assert!(self.sent > 0, "nothing was sent: {self:?}");
        let flawed = self.wrong + self.lost + self.hung;
        assert_eq!(flawed, 0, "{self:?}");
        assert_eq!(self.by_status.values().sum::<u64>(), self.sent, "{self:?}");
    }

    fn new() -> Self {
        Self {
            sent: 0,
            by_status: BTreeMap::new(),
            by_code: BTreeMap::new(),
            wrong: 0,
            lost: 0,
            hung: 0,
            refused: 0,
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("sound bounds"),
            complaints: Vec::new(),
            history: Vec::new(),
        }
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.wrong += other.wrong;
        self.lost += other.lost;
        self.hung += other.hung;
        self.refused += other.refused;
        other.by_status.into_iter().for_each(|(status, count)| *self.by_status.entry(status).or_default() += count);
        other.by_code.into_iter().for_each(|(code, count)| *self.by_code.entry(code).or_default() += count);
        self.latency_us.add(&other.latency_us).expect("the same bounds");
        self.complaints.extend(other.complaints);
        self.complaints.truncate(COMPLAINTS_MAX);
        self.history.extend(other.history);
        self.history.truncate(HISTORY_MAX);
    }

    fn complain(&mut self, text: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(text);
        }
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report")
            .field("sent", &self.sent)
            .field("by_status", &self.by_status)
            .field("by_code", &self.by_code)
            .field("wrong", &self.wrong)
            .field("lost", &self.lost)
            .field("hung", &self.hung)
            .field("refused", &self.refused)
            .field("p50_us", &self.latency_us.value_at_quantile(0.5))
            .field("p99_us", &self.latency_us.value_at_quantile(0.99))
            .field("complaints", &self.complaints)
            .finish_non_exhaustive()
    }
}

/// The default [`Check`]: a worker that returns the task's fields proves that the answer is this request's.
pub fn carries_nonce(nonce: &str, answer: &Response) -> bool {
    answer.text().contains(&format!("\"{nonce}\""))
}

/// One connection.
struct Client {
    load: Load,
    stop: Arc<AtomicBool>,
    start: Instant,
    name: String,
    report: Report,
}

enum NoAnswer {
    Lost(String),
    Hung,
    NotHttp(String),
}

impl Client {
    async fn run(mut self) -> Report {
        while self.goes_on() {
            if let Ok(stream) = TcpStream::connect(self.load.address).await {
                let _ = stream.set_nodelay(true);
                self.converse(stream).await;
            } else {
                self.report.refused += 1;
                tokio::time::sleep(RECONNECT_AFTER).await; // workload: back-off
            }
        }
        self.report
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
            && self.start.elapsed() < self.load.duration
            && self.report.sent < self.load.requests_max
    }

    /// Request after request, until the connection ends.
    async fn converse(&mut self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while self.goes_on() {
            let nonce = format!("{}-{}", self.name, self.report.sent);
            let request = post_queue(&format!(r#"{{"action":"get_gift_code","nonce":"{nonce}"}}"#));
            self.report.sent += 1;
            let start = self.start.elapsed();
            let answer =
                tokio::time::timeout(self.load.answer_limit, exchange(&mut stream, &request, &mut buffer)).await;
            let end = self.start.elapsed();
            let answer = answer.unwrap_or(Err(NoAnswer::Hung));
            if self.report.history.len() < HISTORY_MAX / self.load.connections {
                let status = answer.as_ref().ok().map(|answer| answer.status);
                self.report.history.push(Exchange { nonce: nonce.clone(), start, end, status });
            }
            match answer {
                Ok(answer) => {
                    self.judge(&nonce, &answer, end.saturating_sub(start));
                    if answer.closes() {
                        self.load.address = self.load.after_close.unwrap_or(self.load.address);
                        return;
                    }
                }
                Err(reason) => {
                    self.note(&nonce, reason);
                    tokio::time::sleep(RECONNECT_AFTER).await; // workload: back-off
                    return;
                }
            }
        }
    }

    fn judge(&mut self, nonce: &str, answer: &Response, took: Duration) {
        *self.report.by_status.entry(answer.status).or_default() += 1;
        let sound = if answer.status == 200 {
            self.report.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LATENCY_US_MAX));
            (self.load.check)(nonce, answer)
        } else if let Some(code) = answer.code() {
            *self.report.by_code.entry(code).or_default() += 1;
            !canary::is_in(&answer.text())
        } else {
            false
        };
        if !sound {
            self.report.wrong += 1;
            self.report.complain(format!("{nonce} got {} {:?}", answer.status, answer.text()));
        }
    }

    fn note(&mut self, nonce: &str, reason: NoAnswer) {
        let (count, what) = match reason {
            NoAnswer::Lost(what) => (&mut self.report.lost, format!("lost: {what}")),
            NoAnswer::Hung => (&mut self.report.hung, "hung".into()),
            NoAnswer::NotHttp(what) => (&mut self.report.wrong, format!("not HTTP: {what}")),
        };
        *count += 1;
        self.report.complain(format!("{nonce} {what}"));
    }
}

async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> Result<Response, NoAnswer> {
    stream.write_all(request).await.map_err(|error| NoAnswer::Lost(error.to_string()))?;
    let mut end = false;
    loop {
        if let Some((response, used)) = parse(buffer, Method::Other, end).map_err(NoAnswer::NotHttp)? {
            buffer.drain(..used);
            return Ok(response);
        }
        if end {
            return Err(NoAnswer::Lost("the connection ended".into()));
        }
        let read = stream.read_buf(buffer).await.map_err(|error| NoAnswer::Lost(error.to_string()))?;
        end = read == 0;
    }
}

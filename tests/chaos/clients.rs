//! The clients of a run: those that ask all the time, those that leave early, those that send what is no task. Each on a
//! thread of its own, with a recorded nonce in every request.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::record::{Recorder, now_ns};
use crate::support::http::{NoResponse, Raw, Response};

/// The servers' reply deadline.
pub const DEADLINE: Duration = Duration::from_secs(4);
/// After this a client gives up, and its request counts as never answered. Promised is a second after the deadline.
const GIVE_UP: Duration = Duration::from_secs(DEADLINE.as_secs() + 3);
/// More than the capacity, so that some are refused.
const STEADY: usize = 24;
/// Clients that leave.
const LEAVERS: usize = 4;
/// Clients that send no task.
const BAD: usize = 2;
/// How long a worker holds a task, ms.
const HOLD_MS: std::ops::Range<u64> = 20..250;

/// Where to send: the servers that take new connections, as a load balancer knows them.
#[derive(Default)]
pub struct Table(Mutex<Vec<(String, SocketAddr)>>);

impl Table {
    /// A server that is ready.
    pub fn add(&self, name: &str, address: SocketAddr) {
        self.lock().push((name.to_owned(), address));
    }

    /// No new connections for this one.
    pub fn remove(&self, name: &str) {
        self.lock().retain(|(other, _)| other != name);
    }

    fn pick(&self, random: &mut StdRng) -> Option<(String, SocketAddr)> {
        let servers = self.lock();
        (!servers.is_empty()).then(|| servers[random.random_range(0..servers.len())].clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, SocketAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client does until it is stopped.
type Kind = fn(&mut Client, &Table, &AtomicBool);

/// All clients of a run.
pub struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts them.
    pub fn start(seed: u64, table: &Arc<Table>, recorder: &Arc<Recorder>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let kinds: [(usize, Kind); 3] = [(STEADY, steady), (LEAVERS, leaver), (BAD, bad)];
        let all = kinds.into_iter().flat_map(|(count, kind)| std::iter::repeat_n(kind, count));
        let threads = all.enumerate().map(|(number, kind)| {
            let (table, recorder, stop) = (Arc::clone(table), Arc::clone(recorder), Arc::clone(&stop));
            let mut client = Client::new(format!("client-{number}"), seed ^ number as u64, recorder);
            std::thread::spawn(move || kind(&mut client, &table, &stop))
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// Sends no more, and waits for the answers that are due.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client does not panic"));
    }
}

/// One client; its requests are numbered.
pub struct Client {
    name: String,
    random: StdRng,
    recorder: Arc<Recorder>,
    sent: u64,
}

/// A connection to a server with a name.
struct Connection {
    server: String,
    raw: Raw,
    /// The last request on it.
    last: Option<String>,
}

impl Client {
    /// A client with a name of its own.
    pub fn new(name: String, seed: u64, recorder: Arc<Recorder>) -> Self {
        Self { name, random: StdRng::seed_from_u64(seed), recorder, sent: 0 }
    }

    /// One request on a connection of its own; its status.
    pub fn ask(&mut self, server: &str, address: SocketAddr) -> Option<u16> {
        let raw = Raw::try_connect(address).ok()?;
        let mut connection = Connection { server: server.to_owned(), raw, last: None };
        let nonce = self.call(&mut connection, Self::task)?;
        self.answer(&mut connection, &nonce).map(|answer| answer.status)
    }

    fn connect(&mut self, table: &Table) -> Option<Connection> {
        let connected = table.pick(&mut self.random).and_then(|(server, address)| {
            let raw = Raw::try_connect(address).ok()?;
            Some(Connection { server, raw, last: None })
        });
        if connected.is_none() {
            self.pause(20..50);
        }
        connected
    }

    /// Sends a request and records it, and its loss if it cannot be sent. `None`: this connection is of no use.
    fn call(&mut self, connection: &mut Connection, body: fn(&mut Self, &str) -> String) -> Option<String> {
        if !self.is_quiet(connection) {
            return None;
        }
        self.sent += 1;
        let nonce = format!("{}.{}", self.name, self.sent);
        let body = body(self, &nonce);
        let request = format!(
            "POST /queue HTTP/1.1\r\nhost: test\r\nx-request-id: {nonce}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let more = json!({ "id": nonce, "deadline_ms": DEADLINE.as_secs() * 1_000, "server": connection.server });
        self.recorder.record(now_ns(), &self.name, "call", more);
        connection.last = Some(nonce.clone());
        if connection.raw.try_send(request.as_bytes()).is_err() {
            self.end("lost", &nonce);
            return None;
        }
        Some(nonce)
    }

    /// Reads the answer and records it.
    fn answer(&self, connection: &mut Connection, nonce: &str) -> Option<Response> {
        match connection.raw.response(GIVE_UP) {
            Ok(answer) => {
                let own = nonce_in(&answer);
                let more = json!({ "id": nonce, "status": answer.status, "code": answer.code(), "answer": own });
                self.recorder.record(now_ns(), &self.name, "return", more);
                return Some(answer);
            }
            // The judge finds that it has no end.
            Err(NoResponse::Timeout(_)) => {}
            Err(NoResponse::Closed(_) | NoResponse::Io(_)) => self.end("lost", nonce),
            Err(NoResponse::Malformed(why)) => {
                let more = json!({ "id": nonce, "status": 0, "answer": format!("not HTTP: {why}") });
                self.recorder.record(now_ns(), &self.name, "return", more);
            }
        }
        None
    }

    /// Before a request nothing may have come: a second answer to the last one is recorded as what it is. `false`: the
    /// server has closed the connection, as it may.
    fn is_quiet(&self, connection: &mut Connection) -> bool {
        let stream = connection.raw.stream();
        let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        stream.set_nonblocking(false).expect("a socket can be blocking");
        let is_empty = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        let came = !connection.raw.leftover().is_empty() || matches!(peeked, Ok(1..));
        if let Some(last) = connection.last.as_ref().filter(|_| came) {
            let more = json!({ "id": last, "status": 0, "answer": null });
            self.recorder.record(now_ns(), &self.name, "return", more);
        }
        is_empty && !came
    }

    fn end(&self, event: &str, nonce: &str) {
        self.recorder.record(now_ns(), &self.name, event, json!({ "id": nonce }));
    }

    fn task(&mut self, nonce: &str) -> String {
        json!({ "nonce": nonce, "hold_ms": self.random.random_range(HOLD_MS) }).to_string()
    }

    /// No JSON, or deeper than the server allows.
    fn no_task(&mut self, nonce: &str) -> String {
        if self.random.random_bool(0.5) {
            format!(r#"{{"nonce":"{nonce}","hold_ms":"#)
        } else {
            "[".repeat(100) + &"]".repeat(100)
        }
    }

    fn pause(&mut self, ms: std::ops::Range<u64>) {
        // workload: back-off, think time
        std::thread::sleep(Duration::from_millis(self.random.random_range(ms)));
    }
}

/// Request after request, each as soon as the last one is answered, and a little later after a refusal.
fn steady(client: &mut Client, table: &Table, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut connection) = client.connect(table) else { continue };
        while !stop.load(Ordering::Relaxed) {
            let Some(nonce) = client.call(&mut connection, Client::task) else { break };
            let Some(answer) = client.answer(&mut connection, &nonce) else { break };
            match answer.status {
                200 => {}
                429 => client.pause(20..60),
                _ => client.pause(50..150),
            }
            if answer.closes() {
                break;
            }
        }
    }
}

/// Connects, asks, and is gone before most answers.
fn leaver(client: &mut Client, table: &Table, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut connection) = client.connect(table) else { continue };
        if let Some(nonce) = client.call(&mut connection, Client::task) {
            client.pause(0..150);
            client.end("leave", &nonce);
            if client.random.random_bool(0.5) {
                connection.raw.reset();
            }
        }
        client.pause(50..250);
    }
}

/// Sends what is refused, and takes the refusal.
fn bad(client: &mut Client, table: &Table, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut connection) = client.connect(table) else { continue };
        while !stop.load(Ordering::Relaxed) {
            let Some(nonce) = client.call(&mut connection, Client::no_task) else { break };
            let Some(answer) = client.answer(&mut connection, &nonce) else { break };
            client.pause(50..150);
            if answer.closes() {
                break;
            }
        }
    }
}

/// What the answer says whose it is: the task that came back, else the client's id that every answer carries.
fn nonce_in(answer: &Response) -> Option<String> {
    let header = answer.header("x-request-id").filter(|id| id.starts_with("client-")).map(str::to_owned);
    if answer.status != 200 {
        return header;
    }
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let nonce = body["nonce"].as_str()?.to_owned();
    // Both have to be the request's own.
    header.filter(|id| *id != nonce).or(Some(nonce))
}

//! One thread of load: an epoll loop over its connections, at most one request on each.
//!
//! Edge-triggered, one `send` and one `recv` per request: a read that does not fill the buffer has emptied the socket
//! (epoll(7), question 9). A free connection either starts the next due request at once or waits on the idle list.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::conn::{Conn, Pending, Received, State};
use crate::schedule::{Schedule, Window};
use crate::tally::{Tally, Verdict, latencies, record};
use crate::task::{Nonces, Template, carries};

/// Handshakes under way at once, per thread: below any usual accept backlog, so that none waits for a SYN's repetition.
const CONNECTING_MAX: usize = 64;
/// All connections must stand within this time before the load starts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a connection that failed is opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often timeouts and connections that are down are looked at.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// Events taken per wait.
const EVENTS_MAX: usize = 1024;
/// Bytes taken per read; far more than an answer of the sample worker.
const RECEIVE_BYTES: usize = 32 * 1024;
/// Bytes of a wrong answer that are kept to be shown.
const SAMPLE_BYTES_MAX: usize = 300;

/// What a thread has to do.
#[derive(Debug)]
pub struct Plan {
    /// Where the server is.
    pub server: SocketAddr,
    /// The request.
    pub template: Template,
    /// This thread's nonces.
    pub nonces: Nonces,
    /// Connections of this thread.
    pub connections: usize,
    /// Longest wait for an answer, from when its request was sent.
    pub timeout: Duration,
}

/// What a thread saw.
#[derive(Debug)]
pub struct Outcome {
    /// Requests due during the warm-up.
    pub warmup: Tally,
    /// Requests due after it.
    pub measured: Tally,
    /// How long after its due time each measured request was sent.
    pub lateness: Histogram<u64>,
    /// Measured requests that were due and never sent.
    pub unsent: u64,
    /// Handshakes that failed.
    pub connect_errors: u64,
    /// Connections that were opened again.
    pub reconnects: u64,
    /// Right answers to measured requests, by connection.
    pub served: Vec<u64>,
    /// The first answer that was wrong or malformed.
    pub sample: Option<String>,
}

/// The thread's state.
pub struct Driver<'a> {
    plan: Plan,
    answered: &'a AtomicU64,
    epoll: OwnedFd,
    conns: Vec<Conn>,
    idle: Vec<usize>,
    connecting: usize,
    waiting: usize,
    received: Box<[u8]>,
    outcome: Outcome,
}

impl<'a> Driver<'a> {
    /// Opens all connections; the first that fails ends the run. `answered` counts answers, for the progress bar.
    pub fn connect(plan: Plan, answered: &'a AtomicU64) -> Result<Self> {
        // Open-loop times are kept to the nanosecond instead of the usual 50 µs; without it, they are merely later.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let now = Instant::now();
        let mut driver = Self {
            answered,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?,
            conns: (0..plan.connections).map(|_| Conn::new(now)).collect(),
            idle: Vec::with_capacity(plan.connections),
            connecting: 0,
            waiting: 0,
            received: vec![0; RECEIVE_BYTES].into_boxed_slice(),
            outcome: Outcome {
                warmup: Tally::default(),
                measured: Tally::default(),
                lateness: latencies(),
                unsent: 0,
                connect_errors: 0,
                reconnects: 0,
                served: vec![0; plan.connections],
                sample: None,
            },
            plan,
        };
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while driver.idle.len() < driver.conns.len() {
            if driver.outcome.connect_errors > 0 || now.elapsed() > CONNECT_TIMEOUT {
                bail!("only {} of {} connections to {}", driver.idle.len(), driver.conns.len(), driver.plan.server);
            }
            driver.open_due(Instant::now());
            driver.wait(&mut events, Duration::from_millis(1))?;
            for event in events.drain(..) {
                let index = index_of(event.data);
                if matches!(driver.conns[index].state, State::Connecting(_)) {
                    driver.on_opened(index);
                }
            }
        }
        driver.outcome.reconnects = 0;
        Ok(driver)
    }

    /// Sends what `schedule` makes due and waits for every answer, or its timeout.
    pub fn run(mut self, window: Window, mut schedule: Schedule) -> Result<Outcome> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut sweep_at = window.begin;
        loop {
            let now = Instant::now();
            while let Some(index) = self.idle.pop() {
                if !self.start(index, now, &window, &mut schedule) {
                    break;
                }
            }
            if now >= sweep_at {
                self.sweep(now, &window);
                sweep_at = now + SWEEP_EVERY;
            }
            // Bounded: a request that still waits then hangs, and the sweep ends it at its timeout.
            if schedule.is_over(now) && self.waiting == 0 {
                break;
            }
            let mut until = sweep_at;
            if !self.idle.is_empty() && !schedule.is_over(now) {
                until = schedule.next_due().map_or(until, |due| due.min(until));
            }
            self.wait(&mut events, until.saturating_duration_since(now))?;
            for event in events.drain(..) {
                let index = index_of(event.data);
                if self.on_event(index, event.flags, &window) {
                    self.start(index, Instant::now(), &window, &mut schedule);
                }
            }
        }
        self.outcome.unsent = schedule.unsent();
        Ok(self.outcome)
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts the next due request on a free connection, or puts it on the idle list and says `false`.
    fn start(&mut self, index: usize, now: Instant, window: &Window, schedule: &mut Schedule) -> bool {
        let Some(due) = schedule.take(now) else {
            self.idle.push(index);
            return false;
        };
        let nonce = self.plan.nonces.take();
        if due >= window.measured_from {
            record(&mut self.outcome.lateness, now.saturating_duration_since(due));
        }
        self.waiting += 1;
        let sent = self.conns[index].send(self.plan.template.with(nonce), Pending { nonce, due, sent: now });
        if sent.is_err() {
            self.fail(index, now, Verdict::Lost, window);
        }
        true
    }

    /// Serves one connection's event; `true` when it is free for the next request.
    fn on_event(&mut self, index: usize, flags: epoll::EventFlags, window: &Window) -> bool {
        match self.conns[index].state {
            State::Down(_) => return false,
            State::Connecting(_) => {
                self.on_opened(index);
                return self.idle.pop_if(|last| *last == index).is_some();
            }
            State::Idle | State::Waiting(_) => {}
        }
        if flags.contains(epoll::EventFlags::OUT) && self.conns[index].flush().is_err() {
            self.fail(index, Instant::now(), Verdict::Lost, window);
            return false;
        }
        let was_idle = matches!(self.conns[index].state, State::Idle);
        // After the server's FIN another read is needed: only its 0 tells that the connection is over.
        let to_the_end = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        loop {
            match self.conns[index].receive(&mut self.received) {
                Received::Nothing => break,
                Received::Closed => {
                    self.fail(index, Instant::now(), Verdict::Lost, window);
                    return false;
                }
                Received::Bytes(count) => {
                    if !self.on_bytes(index, count, window) {
                        return false;
                    }
                    if count < self.received.len() && !to_the_end {
                        break;
                    }
                }
            }
        }
        !was_idle && matches!(self.conns[index].state, State::Idle)
    }

    /// Judges what was received; `false` when the connection was closed because of it.
    fn on_bytes(&mut self, index: usize, count: usize, window: &Window) -> bool {
        let now = Instant::now();
        let bytes = &self.received[..count];
        let conn = &mut self.conns[index];
        let State::Waiting(pending) = conn.state else {
            self.keep_sample(count);
            self.fail(index, now, Verdict::Malformed, window);
            return false;
        };
        let (verdict, close) = match conn.reader.feed(bytes) {
            Ok(None) => return true,
            Ok(Some(answer)) => (judge(answer.status, answer.body, pending.nonce), answer.close),
            Err(_) => (Verdict::Malformed, true),
        };
        if matches!(verdict, Verdict::Wrong | Verdict::Malformed) {
            self.keep_sample(count);
        }
        self.settle(index, pending, verdict, now, window);
        if close {
            self.conns[index].close(now);
        }
        !close
    }

    /// Counts the request of a connection, which is free then.
    fn settle(&mut self, index: usize, pending: Pending, verdict: Verdict, now: Instant, window: &Window) {
        let measured = pending.due >= window.measured_from;
        let tally = if measured { &mut self.outcome.measured } else { &mut self.outcome.warmup };
        tally.add(verdict, now.saturating_duration_since(pending.due));
        self.outcome.served[index] += u64::from(measured && verdict == Verdict::Ok);
        self.waiting -= 1;
        self.conns[index].state = State::Idle;
        // Only this thread writes it: no read-modify-write is needed.
        self.answered.store(self.answered.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Closes a connection; a request that waits on it ends with `verdict`.
    fn fail(&mut self, index: usize, now: Instant, verdict: Verdict, window: &Window) {
        match self.conns[index].state {
            State::Waiting(pending) => self.settle(index, pending, verdict, now, window),
            State::Idle => {
                self.idle.retain(|idle| *idle != index);
                // Bytes that nobody asked for are nobody's answer, and still a fault.
                if verdict == Verdict::Malformed {
                    self.outcome.measured.malformed += 1;
                }
            }
            State::Down(_) | State::Connecting(_) => {}
        }
        self.conns[index].close(now + RETRY_PAUSE);
    }

    fn keep_sample(&mut self, count: usize) {
        let bytes = &self.received[..count.min(SAMPLE_BYTES_MAX)];
        self.outcome.sample.get_or_insert_with(|| String::from_utf8_lossy(bytes).into_owned());
    }

    /// Ends what hangs, opens what is down.
    fn sweep(&mut self, now: Instant, window: &Window) {
        for index in 0..self.conns.len() {
            match self.conns[index].state {
                State::Waiting(pending) if now.duration_since(pending.sent) > self.plan.timeout => {
                    self.fail(index, now, Verdict::Hung, window);
                }
                State::Connecting(since) if now.duration_since(since) > CONNECT_TIMEOUT => {
                    self.connecting -= 1;
                    self.outcome.connect_errors += 1;
                    self.conns[index].close(now + RETRY_PAUSE);
                }
                _ => {}
            }
        }
        if now < window.end {
            self.open_due(now);
        }
    }

    fn open_due(&mut self, now: Instant) {
        for index in 0..self.conns.len() {
            if self.connecting >= CONNECTING_MAX {
                return;
            }
            if matches!(self.conns[index].state, State::Down(retry_at) if retry_at <= now) {
                self.open(index, now);
            }
        }
    }

    fn open(&mut self, index: usize, now: Instant) {
        use epoll::EventFlags;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let opened = self.conns[index].open(self.plan.server, now).and_then(|socket| {
            let name = epoll::EventData::new_u64(index as u64);
            Ok(epoll::add(&self.epoll, socket, name, flags)?)
        });
        if opened.is_err() {
            self.outcome.connect_errors += 1;
            self.conns[index].close(now + RETRY_PAUSE);
        } else {
            self.connecting += 1;
        }
    }

    fn on_opened(&mut self, index: usize) {
        self.connecting -= 1;
        if self.conns[index].opened().is_ok() {
            self.outcome.reconnects += 1;
            self.idle.push(index);
        } else {
            self.outcome.connect_errors += 1;
            self.conns[index].close(Instant::now() + RETRY_PAUSE);
        }
    }
}

fn judge(status: u16, body: &[u8], nonce: u64) -> Verdict {
    match status {
        200..=299 if carries(body, nonce) => Verdict::Ok,
        200..=299 => Verdict::Wrong,
        429 => Verdict::Busy,
        other => Verdict::Other(other),
    }
}

fn index_of(data: epoll::EventData) -> usize {
    usize::try_from(data.u64()).expect("the index of a connection")
}

//! The task that owns a shard's connection to Redis: connects, recovers, sends batch after batch, and starts again
//! when anything goes wrong. One call is in flight at a time; what comes meanwhile is the next batch.
//!
//! Not `redis::aio::ConnectionManager`: it retries for seconds inside a call, where a request has milliseconds.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout, timeout_at};

use super::Shared;
use super::call::{Batch, Reply, SCRIPT, ServerClock, Terms, Why};
use super::fault::Fault;
use crate::lifecycle::Part;
use crate::observe::log::Throttle;

/// An idle shard asks Redis so often whether it is still there: readiness is never older.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the second attempt to connect; doubles from there.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two attempts: with the connect itself the bound on how late a healed Redis is noticed.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// At most one warning in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Held permits are renewed so many times within their lease.
const RENEWALS_PER_LEASE: u32 = 3;

/// So many acquires are worth a call at once.
const ENOUGH_FOR_A_CALL: usize = 256;
/// After a timeout the runtime gets so many turns in which the reply may still be found: one each for the socket, the
/// client's own task and ours. With thousands of requests to run in each turn, it may have come long ago.
const LAST_LOOKS: usize = 3;

/// What the task owns.
pub(super) struct Link {
    shared: Rc<Shared>,
    client: Client,
    terms: Terms,
    /// For one call, and for one connect.
    timeout: Duration,
    renew_every: Duration,
    health: Part,
    batch: Batch,
    command: Cmd,
    wakers: Vec<Waker>,
    warnings: Throttle,
}

/// A working connection.
struct Session {
    connection: MultiplexedConnection,
    clock: ServerClock,
}

/// Whoever waits is refused if the task ends, also by a panic: a request must never hang on a task that is gone.
struct StopOnDrop {
    shared: Rc<Shared>,
    health: Part,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.health.set_ready(false);
        self.shared.batcher.borrow_mut().stop();
        self.shared.wake_waiting(&mut Vec::new());
    }
}

impl Link {
    pub(super) fn new(
        shared: Rc<Shared>,
        client: Client,
        terms: Terms,
        timeout: Duration,
        lease: Duration,
        health: Part,
    ) -> Self {
        Self {
            shared,
            client,
            terms,
            timeout,
            renew_every: lease / RENEWALS_PER_LEASE,
            health,
            batch: Batch::default(),
            command: Cmd::new(),
            wakers: Vec::new(),
            warnings: Throttle::new(WARNING_INTERVAL),
        }
    }

    /// Runs until the last handle of the limiter is dropped.
    pub(super) async fn run(mut self) {
        let _stop = StopOnDrop { shared: Rc::clone(&self.shared), health: self.health.clone() };
        let mut pause = BACKOFF_MIN;
        while !self.shared.is_closed() {
            let Err(fault) = self.session(&mut pause).await else { return };
            self.went_down(&fault);
            // Half of the pause is random, so that the shards of a cluster do not come back in step.
            sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// One connection from its making to its fault; `Ok` when the limiter is closed.
    async fn session(&mut self, pause: &mut Duration) -> Result<(), Fault> {
        let connected = timeout(self.timeout, connect(&self.client)).await;
        let mut session = match connected {
            Ok(result) => result.map_err(|error| self.fault(&error))?,
            Err(_elapsed) => return Err(Fault::timeout()),
        };
        self.recover(&mut session).await?;
        *pause = BACKOFF_MIN;
        self.shared.metrics.connections.add(1);
        let ended = self.serve(&mut session).await;
        self.shared.metrics.connections.add(-1);
        ended
    }

    /// Before any acquire: what this shard holds is in the set again, and what it gave back is out of it. The first
    /// call is made even if there is nothing to say, as a connect alone does not show that the server can write.
    async fn recover(&mut self, session: &mut Session) -> Result<(), Fault> {
        self.shared.batcher.borrow_mut().renew_held();
        loop {
            self.call(session).await?;
            if !self.shared.batcher.borrow().is_recovering() {
                break;
            }
        }
        self.shared.batcher.borrow_mut().start();
        Ok(())
    }

    async fn serve(&mut self, session: &mut Session) -> Result<(), Fault> {
        let mut renew_at = Instant::now() + self.renew_every;
        loop {
            let until = renew_at.min(Instant::now() + PROBE_INTERVAL);
            self.wait_for_work(until).await;
            if self.shared.is_closed() {
                return Ok(());
            }
            // Requests that were read from their sockets in the same turn of the runtime join this batch, unless there
            // are enough: with thousands of them a turn takes long.
            if self.shared.batcher.borrow().waiting() < ENOUGH_FOR_A_CALL {
                tokio::task::yield_now().await;
            }
            if Instant::now() >= renew_at {
                self.shared.batcher.borrow_mut().renew_held();
                renew_at = Instant::now() + self.renew_every;
            }
            self.call(session).await?;
        }
    }

    async fn wait_for_work(&self, until: Instant) {
        if self.shared.has_work() {
            return;
        }
        let work = poll_fn(|context| {
            if self.shared.has_work() {
                return Poll::Ready(());
            }
            self.shared.task.set(Some(context.waker().clone()));
            Poll::Pending
        });
        // Elapsed is as good as work: the call is then a probe.
        let _ = timeout_at(until.into(), work).await;
    }

    /// One call: the next batch, its reply, its consequences.
    async fn call(&mut self, session: &mut Session) -> Result<(), Fault> {
        let start = Instant::now();
        self.shared.batcher.borrow_mut().build(&mut self.batch, start);
        self.shared.wake_waiting(&mut self.wakers);
        let act_until_ms = session.clock.act_until_ms(start, self.timeout);
        self.terms.encode(&mut self.command, &self.batch, act_until_ms);
        self.shared.metrics.calls.inc();
        let outcome = in_time(self.timeout, self.exchange(&mut session.connection)).await;
        let end = Instant::now();
        let reply = match outcome {
            Ok(Ok(value)) => Reply::parse(&value, &self.batch).ok_or_else(Fault::unexpected_reply),
            Ok(Err(error)) => Err(self.fault(&error)),
            Err(_elapsed) => Err(Fault::timeout()),
        };
        match &reply {
            Ok(reply) => {
                self.shared.metrics.call_time.observe(end - start);
                session.clock.observe(reply.now_ms, end);
                self.shared.batcher.borrow_mut().settle(&self.batch, reply, end);
                self.note_health(reply.why);
            }
            Err(_) => self.shared.batcher.borrow_mut().fail(&self.batch),
        }
        self.shared.wake_waiting(&mut self.wakers);
        reply.map(drop)
    }

    /// Sends the encoded call; once more after loading the script, if the server has forgotten it (SCRIPT FLUSH).
    async fn exchange(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        match request(connection, &self.command).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.shared.metrics.script_reload.inc();
                load_script(connection).await?;
                request(connection, &self.command).await
            }
            outcome => outcome,
        }
    }

    fn note_health(&mut self, why: Why) {
        if why == Why::OutOfMemory {
            self.health.set_ready(false);
            self.warn(&Fault::out_of_memory());
        } else if self.health.set_ready(true) {
            tracing::info!(part = self.health.name(), "the limiter works: Redis answers");
        }
    }

    fn went_down(&mut self, fault: &Fault) {
        self.shared.metrics.error(fault.kind);
        self.health.set_ready(false);
        self.warn(fault);
        self.shared.batcher.borrow_mut().stop();
        self.shared.wake_waiting(&mut self.wakers);
    }

    fn warn(&self, fault: &Fault) {
        let Some(suppressed) = self.warnings.pass() else { return };
        let (part, kind, key) = (self.health.name(), fault.kind.label(), self.terms.set_key());
        let error = &fault.text;
        tracing::warn!(part, kind, key, %error, suppressed, "the limiter is unavailable; requests get 503");
    }

    fn fault(&self, error: &RedisError) -> Fault {
        Fault::new(error, self.client.get_connection_info().redis_settings().password())
    }
}

/// What `call` gives within `limit`, not counting the time for which it was ready and this shard too busy to look.
async fn in_time<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut call = pin!(call);
    let elapsed = match timeout(limit, call.as_mut()).await {
        Ok(outcome) => return Ok(outcome),
        Err(elapsed) => elapsed,
    };
    for _ in 0..LAST_LOOKS {
        tokio::task::yield_now().await;
        if let Poll::Ready(outcome) = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
            return Ok(outcome);
        }
    }
    Err(elapsed)
}

/// Connects, reads the server's clock and loads the script.
async fn connect(client: &Client) -> RedisResult<Session> {
    // Our own deadline covers connect and call as a whole.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let (seconds, micros): (i64, i64) = ::redis::cmd("TIME").query_async(&mut connection).await?;
    let clock = ServerClock::new(seconds * 1_000 + micros / 1_000, Instant::now());
    load_script(&mut connection).await?;
    Ok(Session { connection, clock })
}

async fn load_script(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    ::redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).exec_async(connection).await
}

async fn request(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    connection.send_packed_command(command).await?.extract_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ready when polled for the `n`th time, and wakes nobody: as a reply that waits for a busy runtime.
    fn ready_at(n: usize) -> impl Future<Output = ()> {
        let mut polls = 0;
        poll_fn(move |_| {
            polls += 1;
            if polls >= n { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    #[test]
    fn a_reply_that_only_waited_for_a_busy_shard_is_not_late() {
        // Polled at first, when the time is over, and once for each last look.
        const POLLS: usize = 2 + LAST_LOOKS;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = |n| runtime.block_on(in_time(Duration::from_millis(1), ready_at(n)));
        assert!((1..=POLLS).all(|n| outcome(n).is_ok()));
        assert!(outcome(POLLS + 1).is_err());
    }
}

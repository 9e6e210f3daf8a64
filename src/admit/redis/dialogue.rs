//! A shard's calls to a Redis that is not there and grants everything: for `benches/micro`, which measures what the
//! limiter costs this side of the network. Not part of the server.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use ::redis::{Cmd, Value};

use super::batch::Batcher;
use super::call::{Batch, PermitId, Reply, Terms};
use super::metrics::RedisMetrics;
use crate::config::LimiterSettings;
use crate::correlate::CorrelationId;

/// The parts of a limiter that are not the network.
pub struct Dialogue {
    batcher: Batcher,
    terms: Terms,
    batch: Batch,
    command: Cmd,
    wakers: Vec<Waker>,
    /// Permits of the call before, given back with the next.
    held: Vec<usize>,
}

impl Dialogue {
    /// With the settings' capacity, which a call must not exceed.
    #[must_use]
    pub fn new(settings: &LimiterSettings) -> Self {
        let mut batcher = Batcher::new(settings.capacity, settings.redis_timeout, Arc::new(RedisMetrics::default()));
        batcher.start();
        let terms = Terms::new(settings);
        let (batch, command) = (Batch::default(), Cmd::new());
        Self { batcher, terms, batch, command, wakers: Vec::new(), held: Vec::new() }
    }

    /// Gives the permits of the last call back and takes one for each of `ids`; returns how many were granted.
    pub fn call(&mut self, ids: &[CorrelationId]) -> usize {
        let now = Instant::now();
        let mut context = Context::from_waker(Waker::noop());
        for key in self.held.drain(..) {
            self.batcher.release(key);
        }
        for id in ids {
            self.held.extend(self.batcher.enqueue(PermitId::new(id.encode()), now));
        }
        for &key in &self.held {
            let _ = self.batcher.poll_answer(key, &mut context);
        }

        self.batcher.build(&mut self.batch, now);
        self.terms.encode(&mut self.command, &self.batch, 0);
        let bytes = self.command.get_packed_command();
        debug_assert!(bytes.len() > ids.len() * CorrelationId::TEXT_LEN, "the call has every id");
        drop(bytes);
        self.settle(now);

        self.batcher.take_wakers(&mut self.wakers);
        self.wakers.drain(..).for_each(Waker::wake);
        let granted = |key: &&usize| self.batcher.poll_answer(**key, &mut context).is_ready();
        self.held.iter().filter(granted).count()
    }

    fn settle(&mut self, now: Instant) {
        let [acquired, released] = [self.batch.acquires.len(), self.batch.releases.len()].map(to_int);
        let numbers = [acquired, acquired, 0, released, 0, 0];
        let value = Value::Array(numbers.into_iter().map(Value::Int).collect());
        if let Some(reply) = Reply::parse(&value, &self.batch) {
            self.batcher.settle(&self.batch, &reply, now);
        }
    }
}

fn to_int(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

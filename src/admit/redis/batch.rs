//! Which ids go into the next script call, and what its outcome means for each of them. Pure: no network, no clock of
//! its own, no runtime.
//!
//! ```text
//! enqueue ─▶ Queued ─build─▶ Sent ─settle─▶ Held ─release─▶ (releases) ─build─▶ gone with the call's reply
//!               │              │  └────────▶ Refused ─▶ gone when its future has read it
//!               │              └─fail─▶ Refused, and a compensating release: the call may have been done
//!               └─stop─▶ Refused
//! ```
//! A future that is dropped leaves `Abandoned` behind in the first two states: whoever meets it next forgets it, or
//! gives back what was granted.

mod gate;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use self::gate::{Contention, Gate};
use super::super::Refused;
use super::call::{Batch, PermitId, Reply, Why};
use super::fault::FaultKind;
use super::metrics::RedisMetrics;

/// Most ids of one kind in one call. A thousand take Redis about a millisecond, which is what its other clients wait.
pub(super) const BATCH_MAX: usize = 1_000;
/// Most acquires that wait for a call; beyond it they are refused at once.
pub(super) const WAITING_MAX: usize = 65_536;
/// Most releases that wait for a call, in all likelihood because Redis is away; beyond it they are left to their lease.
pub(super) const DEFERRED_RELEASES_MAX: usize = 65_536;

/// The ids of one shard: waiting, held, to be released.
pub(super) struct Batcher {
    entries: Slab<Entry>,
    /// Keys of the entries to acquire, first come first.
    waiting: VecDeque<usize>,
    releases: VecDeque<PermitId>,
    /// Releases of calls that failed, and compensations; they go first.
    retried: VecDeque<PermitId>,
    /// While held ids are renewed: the first entry that has not been looked at.
    renewing: Option<usize>,
    gate: Gate,
    contention: Contention,
    /// Ids in the call under way, which are in Redis or not, nobody knows.
    in_flight: InFlight,
    /// To be woken once the state is no longer borrowed: dropping a waker may drop a future, which comes back here.
    wakers: Vec<Waker>,
    capacity: u64,
    /// How long an acquire waits for a call that has room for it before it is refused.
    patience: Duration,
    /// When acquires were last put into a call.
    built_at: Option<Instant>,
    metrics: Arc<RedisMetrics>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct InFlight {
    releases: usize,
    acquires: usize,
}

struct Entry {
    id: PermitId,
    state: State,
    queued_at: Instant,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Sent,
    Held,
    Refused(Refused),
    Abandoned,
}

impl Batcher {
    pub(super) fn new(capacity: u32, patience: Duration, metrics: Arc<RedisMetrics>) -> Self {
        Self {
            entries: Slab::new(),
            waiting: VecDeque::new(),
            releases: VecDeque::new(),
            retried: VecDeque::new(),
            renewing: None,
            gate: Gate::Down,
            contention: Contention::default(),
            in_flight: InFlight::default(),
            wakers: Vec::new(),
            capacity: u64::from(capacity),
            patience,
            built_at: None,
            metrics,
        }
    }

    /// Puts `id` in line for the next call, or refuses without one. The key is for the calls below.
    pub(super) fn enqueue(&mut self, id: PermitId, now: Instant) -> Result<usize, Refused> {
        let gate = self.gate;
        let early = match gate {
            Gate::Shut { until, why } if now < until && !self.makes_room(why, now) => Some(why),
            Gate::Down => Some(Refused::Unavailable),
            _ if self.waiting.len() >= WAITING_MAX => Some(Refused::Unavailable),
            _ => None,
        };
        if let Some(why) = early {
            self.metrics.early_refusals.inc();
            return Err(self.metrics.refuse(why));
        }
        let key = self.entries.insert(Entry { id, state: State::Queued, queued_at: now, waker: None });
        self.waiting.push_back(key);
        Ok(key)
    }

    /// The outcome of an acquire. Once it is `Ready(Ok)` the key stands for a permit; after `Ready(Err)` for nothing.
    pub(super) fn poll_answer(&mut self, key: usize, context: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        let entry = &mut self.entries[key];
        match entry.state {
            State::Held => Poll::Ready(Ok(())),
            State::Refused(why) => {
                self.entries.remove(key);
                Poll::Ready(Err(why))
            }
            State::Queued | State::Sent | State::Abandoned => {
                if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    entry.waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// The future of an acquire was dropped before it read its outcome.
    pub(super) fn abandon(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        match entry.state {
            State::Queued | State::Sent | State::Abandoned => {
                entry.state = State::Abandoned;
                entry.waker = None;
            }
            State::Held => self.release(key),
            State::Refused(_) => drop(self.entries.remove(key)),
        }
    }

    /// Gives a held permit back with the next call.
    pub(super) fn release(&mut self, key: usize) {
        let entry = self.entries.remove(key);
        debug_assert_eq!(entry.state, State::Held, "only what is held can be released");
        self.metrics.held.add(-1);
        self.contention.released();
        self.queue_release(entry.id);
    }

    /// How many acquires wait for a call.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether there is anything to send.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.has_releases() || self.renewing.is_some()
    }

    /// Whether nothing has to be given back any more, as far as is known.
    pub(super) fn is_flushed(&self) -> bool {
        !self.has_releases() && self.in_flight == InFlight::default()
    }

    /// Ids that Redis may still have because of this shard.
    pub(super) fn unreleased(&self) -> usize {
        let held = self.entries.iter().filter(|(_, entry)| entry.state == State::Held).count();
        held + self.releasing() + self.in_flight.acquires
    }

    /// From now on each call renews some of the held ids, until all had their turn.
    pub(super) fn renew_held(&mut self) {
        self.renewing = Some(0);
    }

    /// Whether held ids or releases are left over from before the connection: they go before any acquire.
    pub(super) fn is_recovering(&self) -> bool {
        self.renewing.is_some() || self.has_releases()
    }

    /// The connection works: acquires are welcome.
    pub(super) fn start(&mut self) {
        self.gate = Gate::Open;
    }

    /// The connection is lost: whoever waits for a call is refused, and whoever comes.
    pub(super) fn stop(&mut self) {
        self.gate = Gate::Down;
        while let Some(key) = self.waiting.pop_front() {
            self.refuse(key, Refused::Unavailable);
        }
    }

    /// Fills `batch` with what has to be sent now.
    pub(super) fn build(&mut self, batch: &mut Batch, now: Instant) {
        batch.releases.clear();
        let retried = self.retried.len().min(BATCH_MAX);
        batch.releases.extend(self.retried.drain(..retried));
        batch.retried = retried;
        let first_time = self.releases.len().min(BATCH_MAX - retried);
        batch.releases.extend(self.releases.drain(..first_time));
        self.build_renewals(&mut batch.renewals);
        self.build_acquires(batch, now);
        self.in_flight = InFlight { releases: batch.releases.len(), acquires: batch.acquires.len() };
        self.contention.sent();
        self.metrics.batched.add((batch.releases.len() + batch.acquires.len() + batch.renewals.len()) as u64);
    }

    /// Takes the reply to `batch`.
    pub(super) fn settle(&mut self, batch: &Batch, reply: &Reply, now: Instant) {
        self.in_flight = InFlight::default();
        self.contention.settled();
        self.metrics.set_size.set(i64::try_from(reply.size).unwrap_or(i64::MAX));
        self.metrics.released.add(reply.released as u64);
        self.metrics.reinserted.add(reply.reinserted as u64);
        // An id whose first release was in doubt may rightly be gone.
        if batch.retried == 0 {
            self.metrics.permit_missing.add(batch.releases.len().saturating_sub(reply.released) as u64);
        }
        if reply.why == Why::Full {
            self.contention.noticed(now);
        }
        if reply.why == Why::OutOfMemory {
            self.metrics.error(FaultKind::Oom);
        }
        for (index, &key) in batch.keys.iter().enumerate() {
            if index < reply.granted {
                self.grant(key);
            } else {
                self.refuse(key, reply.why.refusal());
            }
        }
        if self.gate != Gate::Down {
            self.gate = Gate::after(reply, self.capacity, now);
        }
    }

    /// The call with `batch` failed: whether Redis did it, does it later, or never will is unknown.
    pub(super) fn fail(&mut self, batch: &Batch) {
        self.in_flight = InFlight::default();
        self.contention.settled();
        self.metrics.release_deferred.add(batch.releases.len() as u64);
        self.metrics.compensations.add(batch.acquires.len() as u64);
        for &id in batch.releases.iter().chain(&batch.acquires) {
            if self.has_room_for_release() {
                self.retried.push_back(id);
            }
        }
        for &key in &batch.keys {
            self.refuse(key, Refused::Unavailable);
        }
    }

    /// Swaps the wakers to be woken with `into`, which is empty.
    pub(super) fn take_wakers(&mut self, into: &mut Vec<Waker>) {
        debug_assert!(into.is_empty(), "wakers are woken before more are taken");
        std::mem::swap(&mut self.wakers, into);
    }

    /// Renewals: a slice of the held ids, walking the slab. What is granted behind the walker has a fresh lease.
    fn build_renewals(&mut self, renewals: &mut Vec<PermitId>) {
        renewals.clear();
        let Some(mut key) = self.renewing else { return };
        while key < self.entries.capacity() && renewals.len() < BATCH_MAX {
            if let Some(entry) = self.entries.get(key).filter(|entry| entry.state == State::Held) {
                renewals.push(entry.id);
            }
            key += 1;
        }
        self.renewing = (key < self.entries.capacity()).then_some(key);
    }

    fn build_acquires(&mut self, batch: &mut Batch, now: Instant) {
        batch.acquires.clear();
        batch.keys.clear();
        if self.gate == Gate::Down {
            return;
        }
        // Only those that a call has left behind are too late. Whoever waits for the first one since it came does so
        // because this shard did not run, and Redis is well. `None`: no call yet, or the machine has not been up for so
        // long.
        let oldest = now.checked_sub(self.patience).min(self.built_at);
        self.built_at = Some(now);
        while batch.keys.len() < BATCH_MAX {
            let Some(key) = self.waiting.pop_front() else { break };
            let entry = &mut self.entries[key];
            if entry.state == State::Abandoned {
                self.entries.remove(key);
            } else if oldest.is_some_and(|oldest| entry.queued_at < oldest) {
                self.refuse(key, Refused::Unavailable);
            } else {
                entry.state = State::Sent;
                batch.acquires.push(entry.id);
                batch.keys.push(key);
            }
        }
    }

    fn grant(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        if entry.state == State::Abandoned {
            let entry = self.entries.remove(key);
            self.queue_release(entry.id);
            return;
        }
        entry.state = State::Held;
        self.wakers.extend(entry.waker.take());
        self.metrics.granted.inc();
        self.metrics.held.add(1);
    }

    fn refuse(&mut self, key: usize, why: Refused) {
        let entry = &mut self.entries[key];
        if entry.state == State::Abandoned {
            self.entries.remove(key);
            return;
        }
        entry.state = State::Refused(self.metrics.refuse(why));
        self.wakers.extend(entry.waker.take());
    }

    fn queue_release(&mut self, id: PermitId) {
        if self.has_room_for_release() {
            self.releases.push_back(id);
        }
    }

    /// Whether this shard gives back more than it asks for: then a full set will not be full. A client whose answer is
    /// out can ask again before Redis knows that it had its answer. Redis decides all the same.
    ///
    /// Not always while more clients ask than there are permits: a shard that asks in each call in which it gives back
    /// would leave nothing to the others.
    fn makes_room(&mut self, why: Refused, now: Instant) -> bool {
        // Acquires whose client has left count too, which errs to the safe side.
        let acquiring = self.waiting.len() + self.in_flight.acquires;
        let releasing = self.releasing();
        why == Refused::CapacityReached && releasing > acquiring + self.contention.left_to_others(releasing, now)
    }

    /// Ids that are to be given back, or being so.
    fn releasing(&self) -> usize {
        self.queued_releases() + self.in_flight.releases
    }

    fn has_releases(&self) -> bool {
        self.queued_releases() > 0
    }

    fn queued_releases(&self) -> usize {
        self.releases.len() + self.retried.len()
    }

    fn has_room_for_release(&self) -> bool {
        let room = self.queued_releases() < DEFERRED_RELEASES_MAX;
        if !room {
            self.metrics.release_left.inc();
        }
        room
    }
}

#[cfg(test)]
mod tests;

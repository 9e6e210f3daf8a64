//! When an acquire is worth a call, and what a shard may expect of what it gives back itself.

use std::time::{Duration, Instant};

use super::super::super::Refused;
use super::super::call::{Reply, Why};

/// How long a full set is believed to be full. A permit that another shard gives back is idle for so long at most; one
/// that this shard gives back can be asked for at once, see [`Batcher::makes_room`](super::Batcher::makes_room).
pub(super) const FULL_RECHECK: Duration = Duration::from_millis(3);
/// For so long after Redis has refused somebody for want of permits, more clients are believed to ask than there are
/// permits. Several rechecks, so that it stays so while the overload lasts.
pub(super) const CONTENDED: Duration = Duration::from_millis(30);
/// Meanwhile one in so many permits that a shard gives back is left to whoever asks Redis first: few enough that permits
/// are hardly ever idle.
pub(super) const LEFT_TO_OTHERS: usize = 32;
/// With slow tasks: at least one in so much time, so that a shard that comes later has its part of a hundred permits within
/// seconds.
pub(super) const LEFT_EVERY: Duration = Duration::from_millis(100);

/// Whether an acquire is worth a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// No working connection.
    Down,
    Open,
    /// The last reply refused, or filled the set: believed until then.
    Shut {
        until: Instant,
        why: Refused,
    },
}

impl Gate {
    /// What `reply` says of the next acquires.
    pub(super) fn after(reply: &Reply, capacity: u64, now: Instant) -> Self {
        let why = match reply.why {
            Why::Rate | Why::OutOfMemory => reply.why.refusal(),
            _ if reply.size >= capacity => Refused::CapacityReached,
            _ => return Self::Open,
        };
        Self::Shut { until: now + FULL_RECHECK, why }
    }
}

/// What a shard leaves to others of the permits that it gives back.
#[derive(Debug, Default)]
pub(super) struct Contention {
    until: Option<Instant>,
    /// Releases since the last one that was left to others.
    own: usize,
    /// When one was last left for the time that had passed.
    left_at: Option<Instant>,
    /// Queued releases that are left to others.
    queued: usize,
    /// The same in the call under way.
    sent: usize,
}

impl Contention {
    /// Redis had no permit for somebody.
    pub(super) fn noticed(&mut self, now: Instant) {
        self.until = Some(now + CONTENDED);
    }

    /// A permit is given back.
    pub(super) fn released(&mut self) {
        self.own += 1;
        if self.own == LEFT_TO_OTHERS {
            self.own = 0;
            self.queued += 1;
        }
    }

    /// What was queued is in the call.
    pub(super) fn sent(&mut self) {
        self.sent = std::mem::take(&mut self.queued);
    }

    /// The call is over.
    pub(super) fn settled(&mut self) {
        self.sent = 0;
    }

    /// How many of `releasing`, the releases that are queued or under way, make no room for this shard's own acquires.
    pub(super) fn left_to_others(&mut self, releasing: usize, now: Instant) -> usize {
        if self.until.is_none_or(|until| now >= until) {
            return 0;
        }
        let is_due = self.left_at.is_none_or(|left_at| now.saturating_duration_since(left_at) >= LEFT_EVERY);
        if is_due && releasing > self.queued + self.sent {
            self.queued += 1;
            self.left_at = Some(now);
        }
        self.queued + self.sent
    }
}

//! Random sequences of operations on a small table, each compared with a model that knows no slots: a list of every id
//! ever made and what has become of it. Time is a number of seconds after the start; nothing sleeps.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tests::{Granted, Wakes, poll, table};
use super::{CorrelationId, Delivery, Expired, Table, Ticket, Waiter};

/// Fewer than rest before reuse, so that slots are reused at once and old ids meet new tenants.
const SLOTS_MAX: u32 = 5;

/// One step. An index picks one of the ids made so far, the newest first, so that small numbers hit live ones.
#[derive(Debug, Clone)]
enum Step {
    Mint,
    /// Deadlines are out of order on purpose.
    Reserve(usize, u64),
    Complete(usize),
    Forge(usize),
    Poll(usize),
    Drop(usize),
    Expire(u64),
    CompleteAll,
}

/// What has become of an id.
enum Fate {
    Minted(Ticket<u32>),
    Waiting { waiter: Waiter<u32>, wakes: Arc<Wakes>, polled: bool },
    Answered { waiter: Waiter<u32>, wakes: Arc<Wakes>, polled: bool, reply: u32 },
    Expired { waiter: Waiter<u32>, wakes: Arc<Wakes>, polled: bool },
    Taken { _waiter: Waiter<u32>, answered: bool },
    Gone { answered: bool },
}

struct Model {
    start: Instant,
    table: Table<u32>,
    /// Every id ever made, in order.
    ids: Vec<CorrelationId>,
    fates: HashMap<CorrelationId, Fate>,
    /// Ids in order of `reserve`, with their deadlines; those that no longer wait are skipped.
    reserved: VecDeque<(CorrelationId, u64)>,
    /// The id that held each slot last.
    tenants: HashMap<u32, CorrelationId>,
    replies: u32,
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0..8_usize;
    prop_oneof![
        4 => Just(Step::Mint),
        4 => (index.clone(), 0..20_u64).prop_map(|(index, deadline_s)| Step::Reserve(index, deadline_s)),
        3 => index.clone().prop_map(Step::Complete),
        1 => index.clone().prop_map(Step::Forge),
        4 => index.clone().prop_map(Step::Poll),
        3 => index.prop_map(Step::Drop),
        1 => (0..20_u64).prop_map(Step::Expire),
        1 => Just(Step::CompleteAll),
    ]
}

proptest! {
    // Few under Miri, to which each costs as much as a thousand.
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 1_000 }))]
    #[test]
    fn the_table_does_what_the_model_says(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model {
            start: Instant::now(),
            table: table(SLOTS_MAX),
            ids: Vec::new(),
            fates: HashMap::new(),
            reserved: VecDeque::new(),
            tenants: HashMap::new(),
            replies: 0,
        };
        for step in steps {
            model.take(&step);
            assert_eq!(model.table.waiting(), model.waiting());
        }
    }
}

impl Model {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Mint => self.mint(),
            Step::Reserve(index, deadline_s) => self.with(index, |model, id| model.reserve(id, deadline_s)),
            Step::Complete(index) => self.with(index, Self::complete),
            Step::Forge(index) => self.with(index, |model, id| model.forge(id)),
            Step::Poll(index) => self.with(index, Self::poll),
            Step::Drop(index) => self.with(index, Self::drop),
            Step::Expire(now_s) => self.expire(now_s),
            Step::CompleteAll => self.complete_all(),
        }
    }

    /// Runs `act` on the id that is `index` before the newest, if there are so many.
    fn with(&mut self, index: usize, act: impl FnOnce(&mut Self, CorrelationId)) {
        if let Some(id) = self.ids.iter().rev().nth(index) {
            act(self, *id);
        }
    }

    fn waiting(&self) -> usize {
        self.fates.values().filter(|fate| matches!(fate, Fate::Waiting { .. })).count()
    }

    fn is_held(&self, id: CorrelationId) -> bool {
        !matches!(self.fates[&id], Fate::Gone { .. })
    }

    fn mint(&mut self) {
        let held = self.ids.iter().filter(|id| self.is_held(**id)).count();
        match self.table.mint() {
            Ok(ticket) => {
                assert!(held < SLOTS_MAX as usize);
                let id = ticket.id();
                if let Some(old) = self.tenants.insert(id.slot(), id) {
                    assert!(!self.is_held(old), "two requests in one slot");
                }
                self.ids.push(id);
                assert!(self.fates.insert(id, Fate::Minted(ticket)).is_none(), "an id was made twice");
            }
            Err(_) => assert_eq!(held, SLOTS_MAX as usize),
        }
    }

    fn reserve(&mut self, id: CorrelationId, deadline_s: u64) {
        self.change(id, |model, fate| match fate {
            Fate::Minted(ticket) => {
                model.reserved.push_back((id, deadline_s));
                let waiter = ticket.reserve(&Granted(id), model.start + Duration::from_secs(deadline_s));
                Fate::Waiting { waiter, wakes: Arc::default(), polled: false }
            }
            other => other,
        });
    }

    fn complete(&mut self, id: CorrelationId) {
        self.replies += 1;
        let reply = self.replies;
        let delivery = self.table.complete(id, reply);
        let same_tenant = self.tenants[&id.slot()] == id;
        self.change(id, |_, fate| match fate {
            Fate::Waiting { waiter, wakes, polled } => {
                assert_eq!(delivery, Delivery::Delivered);
                Fate::Answered { waiter, wakes, polled, reply }
            }
            other => {
                let answered = match &other {
                    Fate::Answered { .. } => true,
                    Fate::Taken { answered, .. } => *answered,
                    Fate::Gone { answered } => *answered && same_tenant,
                    _ => false,
                };
                assert_eq!(delivery, if answered { Delivery::Duplicate } else { Delivery::Late });
                other
            }
        });
    }

    /// A tag that differs in one bit is never ours, whatever its slot does now.
    fn forge(&self, id: CorrelationId) {
        let mut bytes = id.to_bytes();
        bytes[7] ^= 1;
        let forged = CorrelationId::parse(&bytes).unwrap();
        assert_eq!(self.table.complete(forged, 0), Delivery::Forged);
    }

    fn poll(&mut self, id: CorrelationId) {
        self.change(id, |_, fate| match fate {
            Fate::Waiting { mut waiter, wakes, .. } => {
                assert!(poll(&mut waiter, &Waker::from(Arc::clone(&wakes))).is_pending());
                assert_eq!(wakes.get(), 0);
                Fate::Waiting { waiter, wakes, polled: true }
            }
            Fate::Answered { mut waiter, wakes, polled, reply } => {
                assert_eq!(wakes.get(), usize::from(polled));
                assert_eq!(poll(&mut waiter, Waker::noop()), Poll::Ready(Ok(reply)));
                Fate::Taken { _waiter: waiter, answered: true }
            }
            Fate::Expired { mut waiter, wakes, polled } => {
                assert_eq!(wakes.get(), usize::from(polled));
                assert_eq!(poll(&mut waiter, Waker::noop()), Poll::Ready(Err(Expired)));
                Fate::Taken { _waiter: waiter, answered: false }
            }
            other => other,
        });
    }

    fn drop(&mut self, id: CorrelationId) {
        self.change(id, |_, fate| {
            let answered = match &fate {
                Fate::Answered { .. } => true,
                Fate::Taken { answered, .. } | Fate::Gone { answered } => *answered,
                _ => false,
            };
            Fate::Gone { answered }
        });
    }

    fn expire(&mut self, now_s: u64) {
        let mut expired = 0;
        while let Some((id, deadline_s)) = self.reserved.front().copied() {
            let waits = matches!(self.fates[&id], Fate::Waiting { .. });
            if waits && deadline_s > now_s {
                break;
            }
            self.reserved.pop_front();
            expired += usize::from(waits);
            self.change(id, |_, fate| match fate {
                Fate::Waiting { waiter, wakes, polled } => Fate::Expired { waiter, wakes, polled },
                other => other,
            });
        }
        assert_eq!(self.table.expire(self.start + Duration::from_secs(now_s)), expired);
    }

    fn complete_all(&mut self) {
        let mut replies = self.replies;
        let count = self.table.complete_all(|| {
            replies += 1;
            replies
        });
        assert_eq!(count, self.waiting());
        for (id, _) in std::mem::take(&mut self.reserved) {
            self.change(id, |model, fate| match fate {
                Fate::Waiting { waiter, wakes, polled } => {
                    model.replies += 1;
                    Fate::Answered { waiter, wakes, polled, reply: model.replies }
                }
                other => other,
            });
        }
    }

    fn change(&mut self, id: CorrelationId, change: impl FnOnce(&mut Self, Fate) -> Fate) {
        let fate = self.fates.remove(&id).unwrap();
        let fate = change(self, fate);
        self.fates.insert(id, fate);
    }
}

//! Random histories of several shards on one real server, against a model of a few lines that says exactly who gets a
//! permit, what is in the set, and what is counted as lost and put back.
//!
//! The model is a set of ids. The limiter around it has batches, a gate that spares calls while the set is known to be
//! full, compensations and renewals on a new connection: none of them may show, but for the few milliseconds in which
//! a shard believes a set to be full that another shard has made room in.
//!
//! One step at a time, each waited for, so that the order in which the server does things is known; what happens
//! when calls meet is the business of `permits` and `faults`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redis::Connection;
use thousandx::correlate::Admitted;

use super::permits::join_all;
use super::*;

const CAPACITY: usize = 4;
const SHARDS: usize = 3;
/// Histories, and the longest of them: some seconds in all.
const CASES: u32 = 48;
const STEPS_MAX: usize = 40;
/// A score in the past, by any clock.
const OVER: &str = "1";

/// One step. A permit is named by its place among those that the shard holds, modulo their number.
#[derive(Debug, Clone)]
enum Step {
    /// So many requests at once, in one batch.
    Acquire { shard: usize, count: usize },
    /// The request ends.
    Release { shard: usize, permit: usize },
    /// The lease ends although the request does not: its holder was stopped for too long.
    Expire { shard: usize, permit: usize },
    /// The shard's connection is cut. On the next one it puts back everything that it holds: this is what a renewal
    /// does too, at a time that a test cannot choose.
    Reconnect { shard: usize },
    /// The server loses everything.
    FlushAll,
    /// The server forgets the script.
    ScriptFlush,
}

fn step() -> impl Strategy<Value = Step> {
    let shard = 0..SHARDS;
    let permit = 0..CAPACITY;
    prop_oneof![
        8 => (shard.clone(), 1..=CAPACITY + 1).prop_map(|(shard, count)| Step::Acquire { shard, count }),
        8 => (shard.clone(), permit.clone()).prop_map(|(shard, permit)| Step::Release { shard, permit }),
        3 => (shard.clone(), permit).prop_map(|(shard, permit)| Step::Expire { shard, permit }),
        2 => shard.prop_map(|shard| Step::Reconnect { shard }),
        1 => Just(Step::FlushAll),
        1 => Just(Step::ScriptFlush),
    ]
}

/// The set as it should be, and what each shard holds, rightly or not.
struct World<'a> {
    client: &'a mut Connection,
    shards: Vec<Shard>,
    /// Names of the shards' connections on the server.
    connections: Vec<u64>,
    held: Vec<Vec<Permit>>,
    set: BTreeSet<String>,
    /// Releases of ids that were gone.
    missing: u64,
    /// Ids that were gone and were put back.
    reinserted: u64,
}

#[test]
fn every_permit_goes_where_the_model_says() {
    let server = RedisServer::start();
    let client = RefCell::new(server.client());
    let settings = settings(&server, u32::try_from(CAPACITY).unwrap());
    let mut runner = TestRunner::new(ProptestConfig { cases: CASES, ..Default::default() });
    let histories = prop::collection::vec(step(), 1..=STEPS_MAX);
    let outcome = runner.run(&histories, |steps| {
        let client = &mut *client.borrow_mut();
        on_shard(async {
            let mut world = World::new(&settings, client).await;
            for step in &steps {
                world.take(step).await;
                world.check(step);
            }
            world.end().await;
        });
        Ok(())
    });
    outcome.unwrap();
}

impl<'a> World<'a> {
    async fn new(settings: &LimiterSettings, client: &'a mut Connection) -> Self {
        command(client, "FLUSHALL");
        let (mut shards, mut connections) = (Vec::new(), Vec::new());
        for _ in 0..SHARDS {
            let before = connections_of_others(client);
            shards.push(Shard::ready(settings).await);
            connections.push(the_new_one(client, &before));
        }
        let held = (0..SHARDS).map(|_| Vec::new()).collect();
        Self { client, shards, connections, held, set: BTreeSet::new(), missing: 0, reinserted: 0 }
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Acquire { shard, count } => self.acquire(shard, count).await,
            Step::Release { shard, permit } => self.release(shard, permit).await,
            Step::Expire { shard, permit } => self.expire(shard, permit),
            Step::Reconnect { shard } => self.reconnect(shard).await,
            Step::FlushAll => {
                command(self.client, "FLUSHALL");
                self.set.clear();
            }
            Step::ScriptFlush => command(self.client, "SCRIPT FLUSH"),
        }
    }

    /// The first so many as there is room for are granted, the others are not.
    async fn acquire(&mut self, shard: usize, count: usize) {
        let room = CAPACITY.saturating_sub(self.set.len()).min(count);
        let deadline = Instant::now() + WAIT_MAX;
        let permits = loop {
            let outcomes = self.try_acquire(shard, count).await;
            // Only a shard that still believes in a full set refuses the first of a batch that there is room for; it may
            // stop to believe in the middle of the batch.
            if room == 0 || outcomes.first().is_some_and(Result::is_ok) || Instant::now() > deadline {
                break outcomes;
            }
            drop(outcomes);
            let in_use = self.held[shard].len();
            assert_eq!(self.shards[shard].limiter.close(WAIT_MAX).await, in_use, "what was given is given back");
            tokio::time::sleep(Duration::from_millis(1)).await; // bounded poll: until the deadline above
        };
        let granted: Vec<bool> = permits.iter().map(Result::is_ok).collect();
        let expected: Vec<bool> = (0..count).map(|place| place < room).collect();
        assert_eq!(granted, expected, "{} of {CAPACITY} in use", self.set.len());
        for outcome in permits {
            match outcome {
                Ok(permit) => {
                    self.set.insert(permit.id().to_string());
                    self.held[shard].push(permit);
                }
                Err(why) => assert_eq!(why, Refused::CapacityReached),
            }
        }
    }

    async fn try_acquire(&self, shard: usize, count: usize) -> Vec<Result<Permit, Refused>> {
        let outcomes: RefCell<Vec<_>> = RefCell::new((0..count).map(|_| Err(Refused::Unavailable)).collect());
        let one = async |place: usize| {
            let outcome = self.shards[shard].acquire().await;
            outcomes.borrow_mut()[place] = outcome;
        };
        join_all((0..count).map(one).collect()).await;
        outcomes.into_inner()
    }

    async fn release(&mut self, shard: usize, permit: usize) {
        let Some(permit) = self.pick(shard, permit) else { return };
        let permit = self.held[shard].swap_remove(permit);
        if !self.set.remove(&permit.id().to_string()) {
            self.missing += 1;
        }
        drop(permit);
        // Does not close the limiter: waits until it has nothing to say.
        let in_use = self.held[shard].len();
        assert_eq!(self.shards[shard].limiter.close(WAIT_MAX).await, in_use, "the others are held");
    }

    fn expire(&mut self, shard: usize, permit: usize) {
        let Some(permit) = self.pick(shard, permit) else { return };
        let id = self.held[shard][permit].id().to_string();
        if self.set.remove(&id) {
            let updated: u64 =
                redis::cmd("ZADD").arg(SET).arg("XX").arg("CH").arg(OVER).arg(id).query(self.client).unwrap();
            assert_eq!(updated, 1, "it was in the set");
        }
    }

    async fn reconnect(&mut self, shard: usize) {
        let before = connections_of_others(self.client);
        command(self.client, &format!("CLIENT KILL ID {}", self.connections[shard]));
        // The shard finds out with its next call, which may have to wait until the set is not known to be full.
        let deadline = Instant::now() + WAIT_MAX;
        while self.shards[shard].acquire().await.err() != Some(Refused::Unavailable) {
            assert!(Instant::now() < deadline, "a call on a connection that was cut");
            tokio::time::sleep(Duration::from_millis(1)).await; // bounded poll: until the deadline above
        }
        let metrics = &self.shards[shard].metrics;
        until("the shard has put back what it holds", WAIT_MAX, || metrics.connections.get() == 1).await;
        self.connections[shard] = the_new_one(self.client, &before);
        for permit in &self.held[shard] {
            self.reinserted += u64::from(self.set.insert(permit.id().to_string()));
        }
    }

    fn pick(&self, shard: usize, permit: usize) -> Option<usize> {
        permit.checked_rem(self.held[shard].len())
    }

    fn check(&mut self, step: &Step) {
        let names: BTreeSet<String> =
            redis::cmd("ZRANGEBYSCORE").arg(SET).arg(format!("({OVER}")).arg("+inf").query(self.client).unwrap();
        assert_eq!(names, self.set, "after {step:?}");
        let sum = |count: fn(&RedisMetrics) -> u64| self.shards.iter().map(|shard| count(&shard.metrics)).sum::<u64>();
        assert_eq!(sum(|metrics| metrics.permit_missing.get()), self.missing, "after {step:?}");
        assert_eq!(sum(|metrics| metrics.reinserted.get()), self.reinserted, "after {step:?}");
        let held: usize = self.held.iter().map(Vec::len).sum();
        assert_eq!(self.shards.iter().map(|shard| shard.metrics.held.get()).sum::<i64>(), i64::try_from(held).unwrap());
    }

    /// Everything is given back, by whoever holds it.
    async fn end(mut self) {
        self.held.clear();
        for shard in &self.shards {
            shard.until_empty_of_own().await;
        }
        let left: u64 = redis::cmd("ZCOUNT").arg(SET).arg(format!("({OVER}")).arg("+inf").query(self.client).unwrap();
        assert_eq!(left, 0, "a permit of nobody");
    }
}

impl Shard {
    async fn until_empty_of_own(&self) {
        assert_eq!(self.limiter.close(WAIT_MAX).await, 0);
        assert_eq!(self.metrics.held.get(), 0);
    }
}

/// Ids of all connections to the server but the test's own.
fn connections_of_others(client: &mut Connection) -> BTreeSet<u64> {
    let own: u64 = redis::cmd("CLIENT").arg("ID").query(client).unwrap();
    let list: String = redis::cmd("CLIENT").arg("LIST").query(client).unwrap();
    let id = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("id="))?.parse().ok();
    list.lines().filter_map(id).filter(|id| *id != own).collect()
}

fn the_new_one(client: &mut Connection, before: &BTreeSet<u64>) -> u64 {
    let new: Vec<_> = connections_of_others(client).difference(before).copied().collect();
    assert_eq!(new.len(), 1, "one connection per shard");
    new[0]
}

//! Random histories of a shard, with a set that plays Redis.

use proptest::prelude::*;

use super::*;

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Enqueue,
    Abandon(usize),
    Release(usize),
    Call {
        fails: bool,
    },
    Reconnect,
    /// Until a full set is asked again, or until nobody is believed to compete any more.
    Wait {
        recheck: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Enqueue),
        1 => any::<usize>().prop_map(Step::Abandon),
        2 => any::<usize>().prop_map(Step::Release),
        3 => any::<bool>().prop_map(|fails| Step::Call { fails }),
        1 => Just(Step::Reconnect),
        1 => any::<bool>().prop_map(|recheck| Step::Wait { recheck }),
    ]
}

/// The keys that tests hold on to, and a set that plays Redis. A failing call may be done or not: here it is.
struct World {
    bench: Bench,
    redis: std::collections::HashSet<PermitId>,
    waiting: Vec<usize>,
    held: Vec<usize>,
    next: usize,
}

impl World {
    fn call(&mut self, fails: bool) {
        let size_before = self.redis.len();
        let batch = self.bench.build().clone_ids();
        self.redis.retain(|id| !batch.0.contains(id));
        let released = size_before - self.redis.len();
        self.redis.extend(&batch.1);
        let granted = batch.2.len().min(2usize.saturating_sub(self.redis.len()));
        self.redis.extend(&batch.2[..granted]);
        if fails {
            self.bench.batcher.fail(&self.bench.batch);
            self.bench.batcher.stop();
        } else {
            let why = if granted < batch.2.len() { Why::Full } else { Why::NotRefused };
            let size = self.redis.len() as u64;
            self.bench.settle(Reply { granted, size, now_ms: 0, released, reinserted: 0, why });
        }
        let waiting = std::mem::take(&mut self.waiting);
        for key in waiting {
            match self.bench.answer(key) {
                Poll::Ready(Ok(())) => self.held.push(key),
                Poll::Ready(Err(_)) => {}
                Poll::Pending => self.waiting.push(key),
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Enqueue => {
                self.next += 1;
                let now = self.bench.now;
                let is_shut = matches!(self.bench.batcher.gate, Gate::Shut { until, .. } if now < until);
                if let Ok(key) = self.bench.enqueue(self.next) {
                    self.waiting.push(key);
                    let batcher = &self.bench.batcher;
                    assert!(!is_shut || batcher.releasing() >= batcher.waiting(), "more asked for than given back");
                }
            }
            Step::Abandon(n) if !self.waiting.is_empty() => {
                let key = self.waiting.swap_remove(n % self.waiting.len());
                self.bench.batcher.abandon(key);
            }
            Step::Release(n) if !self.held.is_empty() => {
                let key = self.held.swap_remove(n % self.held.len());
                self.bench.batcher.release(key);
            }
            Step::Abandon(_) | Step::Release(_) => {}
            Step::Call { fails } => self.call(*fails),
            Step::Wait { recheck } => self.bench.now += if *recheck { FULL_RECHECK } else { CONTENDED },
            Step::Reconnect => {
                self.bench.batcher.renew_held();
                self.bench.batcher.start();
            }
        }
    }
}

impl Batch {
    fn clone_ids(&self) -> (Vec<PermitId>, Vec<PermitId>, Vec<PermitId>) {
        (self.releases.clone(), self.renewals.clone(), self.acquires.clone())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever happens, once all permits are dropped and the connection works, Redis and the batcher are empty.
    #[test]
    fn no_history_leaks_a_permit(steps in prop::collection::vec(step(), 0..60)) {
        let (bench, redis) = (Bench::new(), std::collections::HashSet::new());
        let mut world = World { bench, redis, waiting: vec![], held: vec![], next: 0 };
        for step in &steps {
            world.take(step);
            prop_assert_eq!(usize::try_from(world.bench.metrics.held.get()), Ok(world.held.len()));
        }
        world.take(&Step::Reconnect);
        for _ in 0..3 {
            world.call(false);
        }
        for key in std::mem::take(&mut world.held) {
            world.bench.batcher.release(key);
        }
        world.call(false);
        prop_assert!(world.redis.is_empty(), "left in Redis: {:?}", world.redis);
        prop_assert!(world.bench.batcher.entries.is_empty() && world.bench.batcher.is_flushed());
    }
}

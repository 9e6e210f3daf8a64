//! Taking and giving back permits while Redis is well.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use super::*;

/// Shards, tasks of each, and turns of each task in the test of the capacity.
const SHARDS: usize = 3;
const TASKS: usize = 20;
const TURNS: usize = 50;

#[derive(Default)]
struct Tally {
    in_use: AtomicI64,
    most: AtomicI64,
    granted: AtomicUsize,
}

#[test]
fn the_capacity_is_exact_between_instances() {
    let server = RedisServer::start();
    let settings = settings(&server, 5);
    let tally = Tally::default();
    std::thread::scope(|scope| {
        for _ in 0..SHARDS {
            scope.spawn(|| on_shard(contend(&settings, &tally)));
        }
    });
    assert_eq!(tally.most.load(Ordering::SeqCst), 5, "the capacity is reached and never exceeded");
    assert!(tally.granted.load(Ordering::SeqCst) > 5);
    assert_eq!(size(&mut server.client()), 0);
}

/// Many tasks that want a permit for a few turns of the runtime each.
async fn contend(settings: &LimiterSettings, tally: &Tally) {
    let shard = Shard::ready(settings).await;
    let task = async || {
        for _ in 0..TURNS {
            if let Ok(permit) = shard.acquire().await {
                let in_use = tally.in_use.fetch_add(1, Ordering::SeqCst) + 1;
                tally.most.fetch_max(in_use, Ordering::SeqCst);
                tally.granted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await; // workload: of one request
                tally.in_use.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
            }
            tokio::time::sleep(Duration::from_millis(1)).await; // workload: the client thinks
        }
    };
    join_all((0..TASKS).map(|_| task()).collect()).await;
    assert_eq!(shard.limiter.close(WAIT_MAX).await, 0);
}

/// Polls all of them until the last is done.
pub(super) async fn join_all<F: Future>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|context| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|future| future.as_mut().poll(context).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn the_set_lists_the_ids_in_flight_and_refuses_at_the_capacity() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 2)).await;
        let (one, two) = (new_id(), new_id());
        let permits = (shard.admission.acquire(one).await.unwrap(), shard.admission.acquire(two).await.unwrap());
        let mut ids: Vec<String> = redis::cmd("ZRANGE").arg(SET).arg(0).arg(-1).query(&mut client).unwrap();
        let mut expected = vec![one.to_string(), two.to_string()];
        ids.sort();
        expected.sort();
        assert_eq!(ids, expected);
        assert_eq!(shard.acquire().await.err(), Some(Refused::CapacityReached));
        drop(permits);
        shard.until_empty(&mut client).await;
        assert!(shard.acquire().await.is_ok(), "a reply that showed room opens the gate");
    });
}

#[test]
fn a_known_full_set_costs_no_calls() {
    let server = RedisServer::start();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 1)).await;
        let _held = shard.acquire().await.unwrap();
        let (calls, start) = (shard.metrics.calls.get(), Instant::now());
        for _ in 0..20_000 {
            assert_eq!(shard.acquire().await.err(), Some(Refused::CapacityReached));
        }
        let windows = u64::try_from(start.elapsed().as_millis() / 3).unwrap() + 2;
        let calls = shard.metrics.calls.get() - calls;
        assert!(calls <= windows, "{calls} calls in {windows} windows of 3 ms");
        assert!(shard.metrics.early_refusals.get() >= 20_000 - windows);
    });
}

#[test]
fn one_permit_is_enough_for_one_client_after_the_other() {
    let server = RedisServer::start();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 1)).await;
        for request in 0..2_000 {
            let permit = shard.acquire().await;
            assert!(permit.is_ok(), "request {request} was refused, and nobody else asks");
        }
        assert_eq!(shard.metrics.early_refusals.get(), 0);
    });
}

/// Another one comes while it has every permit, and more clients than those.
#[test]
fn an_overloaded_shard_does_not_keep_all_permits_to_itself() {
    const CLIENTS: usize = 50;
    const ENOUGH: usize = 100;
    let server = RedisServer::start();
    on_shard(async {
        let (busy, late) = (Shard::ready(&settings(&server, 4)).await, Shard::ready(&settings(&server, 4)).await);
        let is_over = std::cell::Cell::new(false);
        let client = async || {
            while !is_over.get() {
                let permit = busy.acquire().await;
                tokio::time::sleep(Duration::from_millis(1)).await; // workload: of one request
                drop(permit);
            }
        };
        let newcomer = async {
            let (deadline, mut got) = (Instant::now() + 3 * WAIT_MAX, 0);
            while got < ENOUGH && Instant::now() < deadline {
                got += usize::from(late.acquire().await.is_ok());
                tokio::time::sleep(Duration::from_millis(1)).await; // workload: the client thinks
            }
            is_over.set(true);
            got
        };
        let (got, ()) = tokio::join!(newcomer, join_all((0..CLIENTS).map(|_| client()).collect()));
        assert_eq!(got, ENOUGH, "permits for the shard that came later");
    });
}

#[test]
fn a_permit_that_redis_lost_is_released_all_the_same() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 1)).await;
        let permit = shard.acquire().await.unwrap();
        command(&mut client, &format!("DEL {SET}"));
        drop(permit);
        shard.until_empty(&mut client).await;
        assert_eq!(shard.metrics.permit_missing.get(), 1);
        assert!(shard.acquire().await.is_ok());
    });
}

#[test]
fn the_permits_of_a_killed_holder_end_with_their_lease() {
    let server = RedisServer::start();
    let settings = LimiterSettings { lease: Duration::from_secs(2), ..settings(&server, 2) };
    on_shard(async {
        let shard = Shard::ready(&settings).await;
        let permits = (shard.acquire().await.unwrap(), shard.acquire().await.unwrap());
        // The runtime ends below with the task on it; nothing is given back, as after SIGKILL.
        std::mem::forget(permits);
    });
    assert_eq!(size(&mut server.client()), 2);
    on_shard(async {
        let shard = Shard::ready(&settings).await;
        assert_eq!(shard.acquire().await.err(), Some(Refused::CapacityReached));
        let deadline = Instant::now() + settings.lease + SLACK;
        while shard.acquire().await.is_err() {
            assert!(Instant::now() < deadline, "the lease is over");
            tokio::time::sleep(Duration::from_millis(5)).await; // bounded poll: the lease and some slack
        }
    });
}

#[test]
fn a_held_permit_outlives_its_lease() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        // Renewed every third of it: the test may stand still for more than a second.
        let settings = LimiterSettings { lease: Duration::from_secs(2), ..settings(&server, 1) };
        let shard = Shard::ready(&settings).await;
        let held = shard.acquire().await.unwrap();
        let end = Instant::now() + 2 * settings.lease;
        until("two leases passed", WAIT_MAX, || Instant::now() > end).await;
        assert_eq!(shard.acquire().await.err(), Some(Refused::CapacityReached));
        assert_eq!(shard.metrics.reinserted.get(), 0, "renewed in time");
        drop(held);
        shard.until_empty(&mut client).await;
    });
}

#[test]
fn an_acquire_dropped_at_any_moment_leaks_nothing() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 1_000)).await;
        for turns in (0..40).cycle().take(400) {
            let admission = shard.admission.clone();
            let acquire = tokio::task::spawn_local(async move { admission.acquire(new_id()).await.map(drop) });
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            acquire.abort();
        }
        shard.until_empty(&mut client).await;
        // A call that was under way may have granted after the check; one more round trip is behind it.
        assert!(shard.acquire().await.is_ok());
        shard.until_empty(&mut client).await;
    });
}

#[test]
fn the_rate_cap_gives_one_second_s_worth_then_the_rate() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let settings = LimiterSettings { rate_per_s: Some(50), ..settings(&server, 1_000) };
        let shard = Shard::ready(&settings).await;
        let (start, mut granted) = (Instant::now(), 0_u128);
        for _ in 0..400 {
            match shard.acquire().await {
                Ok(_permit) => granted += 1,
                Err(why) => assert_eq!(why, Refused::RateExceeded),
            }
        }
        let most = 51 + start.elapsed().as_millis() * 50 / 1_000;
        assert!((50..=most).contains(&granted), "{granted} granted, at most {most}");
        let ttl: i64 = redis::cmd("PTTL").arg(format!("{{{SET}}}:rate")).query(&mut client).unwrap();
        assert!(ttl > 0, "the bucket does not stay for ever");
        until("a token is back", WAIT_MAX, {
            let end = Instant::now() + Duration::from_millis(60);
            move || Instant::now() > end
        })
        .await;
        assert!(shard.acquire().await.is_ok());
    });
}

#[test]
fn many_ids_go_in_few_calls() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 10_000)).await;
        let before = shard.metrics.calls.get();
        let permits = std::cell::RefCell::new(Vec::new());
        let one = async || {
            let permit = shard.acquire().await.unwrap();
            permits.borrow_mut().push(permit);
        };
        join_all((0..3_500).map(|_| one()).collect()).await;
        assert_eq!(size(&mut client), 3_500);
        drop(permits);
        shard.until_empty(&mut client).await;
        let calls = shard.metrics.calls.get() - before;
        assert!((8..=12).contains(&calls), "3,500 acquires and releases in batches of 1,000: {calls} calls");
    });
}

//! What happens when Redis does not do its part. The rows are those of the fault matrix: R1 to R9.

use thousandx::admit::redis::FaultKind;

use super::proxy::Proxy;
use super::*;

/// A refusal while Redis is known to be away, which needs no call: half of them at least take no longer...
const AT_ONCE: Duration = Duration::from_millis(50);
/// ...and none does on a machine that stands still for a moment: a call would take longer.
const WITHOUT_A_CALL: Duration = Duration::from_millis(200);

/// A hundred acquires, all refused, and without a call.
async fn assert_refused_at_once(shard: &Shard) {
    let mut times = Vec::new();
    for _ in 0..100 {
        let (outcome, took) = shard.timed().await;
        assert_eq!(outcome, Err(Refused::Unavailable));
        assert!(took < WITHOUT_A_CALL, "{took:?}");
        times.push(took);
    }
    times.sort_unstable();
    assert!(times[times.len() / 2] < AT_ONCE, "{times:?}");
}

#[test]
fn r1_down_at_start() {
    let mut server = RedisServer::start();
    server.kill();
    on_shard(async {
        let shard = Shard::start(&settings(&server, 1));
        assert_refused_at_once(&shard).await;
        until("a failed connect is counted", WAIT_MAX, || shard.metrics.errors_of(FaultKind::Connect) > 0).await;
        assert!(!shard.health.is_ready());
        server.restart();
        shard.until_ready(RECOVERY_MAX).await;
        assert!(shard.acquire().await.is_ok());
    });
}

#[test]
fn r2_killed_and_restarted_under_load() {
    let mut server = RedisServer::start();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 10)).await;
        let held = shard.acquire().await.unwrap();
        let released_while_down = shard.acquire().await.unwrap();
        server.kill();
        let mut refused = 0;
        while refused < 100 {
            let (outcome, took) = shard.timed().await;
            assert!(took < TIMEOUT + SLACK, "{took:?}");
            refused += u32::from(outcome == Err(Refused::Unavailable));
        }
        drop(released_while_down);
        until("not ready", WAIT_MAX, || !shard.health.is_ready()).await;

        server.restart();
        let mut client = server.client();
        shard.until_ready(RECOVERY_MAX).await;
        assert_eq!(size(&mut client), 1, "the held permit is there again before the first acquire");
        assert!(shard.acquire().await.is_ok());
        assert_eq!(shard.metrics.reinserted.get(), 1);
        drop(held);
        shard.until_empty(&mut client).await;
    });
}

#[test]
fn r2_a_dead_server_is_noticed_without_a_request() {
    let mut server = RedisServer::start();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 1)).await;
        server.kill();
        until("not ready", Duration::from_secs(1) + TIMEOUT + SLACK, || !shard.health.is_ready()).await;
        assert_eq!(shard.metrics.connections.get(), 0);
    });
}

#[test]
fn r3_a_frozen_server_leaves_no_ghosts() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 10)).await;
        let held = shard.acquire().await.unwrap();
        let released_in_the_dark = shard.acquire().await.unwrap();
        server.sigstop();
        drop(released_in_the_dark);
        let (outcome, took) = shard.timed().await;
        assert_eq!(outcome, Err(Refused::Unavailable));
        assert!(took < TIMEOUT + SLACK, "the first waits for its call: {took:?}");
        // The others do not.
        assert_refused_at_once(&shard).await;
        assert!(shard.metrics.errors_of(FaultKind::Timeout) > 0);
        assert_eq!(shard.metrics.compensations.get(), 1);

        server.sigcont();
        shard.until_ready(RECOVERY_MAX).await;
        assert_eq!(size(&mut client), 1, "the acquire that came too late took nothing");
        drop(held);
        shard.until_empty(&mut client).await;
        assert_eq!(shard.metrics.permit_missing.get(), 0);
    });
}

#[test]
fn r3_an_acquire_whose_reply_is_lost_is_given_back() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&through(&proxy, &server)).await;
        proxy.lose_replies();
        assert_eq!(shard.acquire().await.err(), Some(Refused::Unavailable));
        assert_eq!(size(&mut client), 1, "the server did it");
        proxy.pass();
        shard.until_ready(RECOVERY_MAX).await;
        assert_eq!(size(&mut client), 0, "compensated before the first acquire");
        assert!(shard.acquire().await.is_ok());
        shard.until_empty(&mut client).await;
    });
}

#[test]
fn r3_an_acquire_that_comes_after_its_compensation_takes_nothing() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&through(&proxy, &server)).await;
        let held = shard.acquire().await.unwrap();
        let released_in_the_dark = shard.acquire().await.unwrap();
        proxy.hold_requests();
        drop(released_in_the_dark);
        assert_eq!(shard.acquire().await.err(), Some(Refused::Unavailable));
        proxy.pass();
        shard.until_ready(RECOVERY_MAX).await;
        assert_eq!(size(&mut client), 1, "the release was sent again");
        let replies = proxy.replies();
        assert!(proxy.deliver() > 0, "the call was on the wire");
        until("the server has done it", WAIT_MAX, || proxy.replies() > replies).await;
        assert_eq!(size(&mut client), 1, "no ghost beside the held one");
        drop(held);
        shard.until_empty(&mut client).await;
    });
}

fn through(proxy: &Proxy, server: &RedisServer) -> LimiterSettings {
    LimiterSettings { redis_url: Secret::new(proxy.url()), ..settings(server, 10) }
}

#[test]
fn r4_a_slow_server_is_waited_for() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let settings = LimiterSettings { redis_timeout: Duration::from_secs(5), ..settings(&server, 10) };
        let shard = Shard::ready(&settings).await;
        command(&mut client, "CLIENT PAUSE 300 ALL");
        let (outcome, took) = shard.timed().await;
        assert_eq!(outcome, Ok(()));
        assert!(took > Duration::from_millis(100), "the pause was felt: {took:?}");
        shard.until_empty(&mut client).await;
    });
}

#[test]
fn r5_held_permits_come_back_after_flushall() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let settings = LimiterSettings { lease: Duration::from_millis(1_500), ..settings(&server, 2) };
        let shard = Shard::ready(&settings).await;
        let held = (shard.acquire().await.unwrap(), shard.acquire().await.unwrap());
        command(&mut client, "FLUSHALL");
        until("both are back", settings.lease / 3 + SLACK, || size(&mut client) == 2).await;
        until("they are counted", WAIT_MAX, || shard.metrics.reinserted.get() == 2).await;
        assert_eq!(shard.acquire().await.err(), Some(Refused::CapacityReached));
        drop(held);
        shard.until_empty(&mut client).await;
    });
}

#[test]
fn r6_a_forgotten_script_is_loaded_in_the_same_call() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 2)).await;
        command(&mut client, "SCRIPT FLUSH");
        assert!(shard.acquire().await.is_ok());
        assert_eq!(shard.metrics.script_reload.get(), 1);
        assert_eq!(shard.metrics.compensations.get(), 0);
    });
}

#[test]
fn r7_a_replica_is_left() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 2)).await;
        let connections = connections(&mut client);
        command(&mut client, "REPLICAOF 127.0.0.1 1");
        assert_eq!(shard.acquire().await.err(), Some(Refused::Unavailable));
        until("it is told apart", WAIT_MAX, || shard.metrics.errors_of(FaultKind::ReadOnly) > 0).await;
        until("not ready", WAIT_MAX, || !shard.health.is_ready()).await;
        let more = || self::connections(&mut client) > connections + 1;
        until("it connects anew", WAIT_MAX, more).await;
        command(&mut client, "REPLICAOF NO ONE");
        shard.until_ready(RECOVERY_MAX).await;
        assert!(shard.acquire().await.is_ok());
        shard.until_empty(&mut client).await;
    });
}

/// Connections that the server has accepted since its start.
fn connections(client: &mut redis::Connection) -> u64 {
    let info: String = redis::cmd("INFO").arg("stats").query(client).unwrap();
    let line = info.lines().find(|line| line.starts_with("total_connections_received:")).unwrap();
    line.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn r8_without_the_password_nothing_is_given() {
    let server = RedisServer::start();
    let mut client = server.client();
    command(&mut client, "CONFIG SET requirepass canary-secret");
    let wrong = server.url().replace("redis://", "redis://:not-it@");
    let right = server.url().replace("redis://", "redis://:canary-secret@");
    on_shard(async {
        for url in [server.url(), wrong] {
            let settings = LimiterSettings { redis_url: Secret::new(url), ..settings(&server, 1) };
            let shard = Shard::start(&settings);
            until("it is told apart", WAIT_MAX, || shard.metrics.errors_of(FaultKind::Auth) > 1).await;
            assert!(!shard.health.is_ready());
            assert_eq!(shard.acquire().await.err(), Some(Refused::Unavailable));
        }
        let settings = LimiterSettings { redis_url: Secret::new(right), ..settings(&server, 1) };
        assert!(Shard::ready(&settings).await.acquire().await.is_ok());
    });
}

#[test]
fn r8_a_password_that_is_taken_back_mends_itself() {
    let server = RedisServer::start();
    let mut client = server.client();
    command(&mut client, "CONFIG SET requirepass canary-secret");
    on_shard(async {
        let shard = Shard::start(&settings(&server, 1));
        until("it is told apart", WAIT_MAX, || shard.metrics.errors_of(FaultKind::Auth) > 0).await;
        command(&mut client, "CONFIG SET requirepass ''");
        shard.until_ready(RECOVERY_MAX).await;
    });
}

#[test]
fn r9_without_memory_permits_are_given_back_but_not_out() {
    let server = RedisServer::start();
    let mut client = server.client();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 2)).await;
        let held = shard.acquire().await.unwrap();
        command(&mut client, "CONFIG SET maxmemory-policy noeviction");
        command(&mut client, "CONFIG SET maxmemory 1");
        assert_eq!(shard.acquire().await.err(), Some(Refused::Unavailable));
        assert!(shard.metrics.errors_of(FaultKind::Oom) > 0);
        assert!(!shard.health.is_ready());
        drop(held);
        shard.until_empty(&mut client).await;
        command(&mut client, "CONFIG SET maxmemory 0");
        shard.until_ready(RECOVERY_MAX).await;
        assert!(shard.acquire().await.is_ok());
    });
}

#[test]
fn a_key_of_another_type_is_refused_and_named() {
    let server = RedisServer::start();
    let mut client = server.client();
    command(&mut client, &format!("SADD {SET} an-id-of-the-template"));
    on_shard(async {
        let shard = Shard::start(&settings(&server, 1));
        until("it is counted", WAIT_MAX, || shard.metrics.errors_of(FaultKind::Other) > 0).await;
        assert!(!shard.health.is_ready());
        command(&mut client, &format!("DEL {SET}"));
        shard.until_ready(RECOVERY_MAX).await;
    });
}

#[test]
fn close_waits_for_its_grace_and_says_what_is_left() {
    let mut server = RedisServer::start();
    on_shard(async {
        let shard = Shard::ready(&settings(&server, 3)).await;
        let permits = (shard.acquire().await.unwrap(), shard.acquire().await.unwrap());
        let _still_held = shard.acquire().await.unwrap();
        server.kill();
        drop(permits);
        let (grace, start) = (Duration::from_millis(100), Instant::now());
        assert_eq!(shard.limiter.close(grace).await, 3);
        assert!(start.elapsed() < grace + SLACK);
    });
}

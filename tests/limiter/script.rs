//! The Lua script itself, on a real server, against a model of a few lines: random calls, equal replies, equal sets.

use std::collections::BTreeSet;

use proptest::prelude::*;
use redis::{Connection, Script};

use super::*;

const SCRIPT: &str = include_str!("../../src/admit/redis/limiter.lua");
const CAPACITY: usize = 5;
/// Ids that the calls draw from: more than the capacity, few enough to meet again.
const IDS: usize = 12;

/// What one call asks for: indices of ids.
#[derive(Debug, Clone)]
struct Call {
    releases: Vec<usize>,
    renewals: Vec<usize>,
    acquires: Vec<usize>,
    /// It comes after its deadline.
    stale: bool,
    /// Ids whose lease is over when the call comes.
    expired: Vec<usize>,
}

/// `{ granted, size, released, re-inserted, why }`: the reply without the time.
type Outcome = (usize, usize, usize, usize, u8);

const NOT_REFUSED: u8 = 0;
const FULL: u8 = 1;
const STALE: u8 = 3;

/// The set as it should be.
#[derive(Default)]
struct Model(BTreeSet<usize>);

impl Model {
    fn call(&mut self, call: &Call) -> Outcome {
        for id in &call.expired {
            self.0.remove(id);
        }
        let released = call.releases.iter().filter(|id| self.0.remove(id)).count();
        if call.stale {
            return (0, self.0.len(), released, 0, STALE);
        }
        let reinserted = call.renewals.iter().filter(|id| self.0.insert(**id)).count();
        let free = CAPACITY.saturating_sub(self.0.len());
        let granted = call.acquires.len().min(free);
        self.0.extend(&call.acquires[..granted]);
        let why = if granted < call.acquires.len() { FULL } else { NOT_REFUSED };
        (granted, self.0.len(), released, reinserted, why)
    }
}

fn on_server(client: &mut Connection, call: &Call) -> Outcome {
    for &id in &call.expired {
        let _: u64 = redis::cmd("ZADD").arg(SET).arg("XX").arg(1).arg(name(id)).query(client).unwrap();
    }
    let script = Script::new(SCRIPT);
    let mut invocation = script.key(SET);
    invocation.key("rate").arg(CAPACITY).arg(60_000).arg(if call.stale { 1 } else { i64::MAX / 4 }).arg(0);
    invocation.arg(call.releases.len()).arg(call.renewals.len()).arg(call.acquires.len());
    for &id in call.releases.iter().chain(&call.renewals).chain(&call.acquires) {
        invocation.arg(name(id));
    }
    let (granted, size, _now, released, reinserted, why): (usize, usize, u64, usize, usize, u8) =
        invocation.invoke(client).unwrap();
    (granted, size, released, reinserted, why)
}

fn name(id: usize) -> String {
    format!("{id:036}")
}

fn members(client: &mut Connection) -> BTreeSet<usize> {
    let names: Vec<String> = redis::cmd("ZRANGE").arg(SET).arg(0).arg(-1).query(client).unwrap();
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A call never asks for one id in two ways, and never for an id that is in the set already: ids are used once.
fn sanitise(mut call: Call, model: &Model) -> Call {
    let mut seen = BTreeSet::new();
    call.releases.retain(|id| seen.insert(*id));
    call.renewals.retain(|id| seen.insert(*id));
    call.acquires.retain(|id| !model.0.contains(id) && seen.insert(*id));
    call
}

fn ids(most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..IDS, 0..=most)
}

fn any_call() -> impl Strategy<Value = Call> {
    (ids(4), ids(4), ids(8), prop::bool::weighted(0.15), ids(2)).prop_map(
        |(releases, renewals, acquires, stale, expired)| Call { releases, renewals, acquires, stale, expired },
    )
}

#[test]
fn the_script_does_what_the_model_does() {
    let server = RedisServer::start();
    let client = server.client();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 64, ..Default::default() });
    let histories = prop::collection::vec(any_call(), 1..30);
    let client = std::cell::RefCell::new(client);
    let outcome = runner.run(&histories, |calls| {
        let client = &mut *client.borrow_mut();
        command(client, "FLUSHALL");
        let mut model = Model::default();
        for call in calls {
            let call = sanitise(call, &model);
            let expected = model.call(&call);
            prop_assert_eq!(on_server(client, &call), expected, "{:?}", call);
            prop_assert_eq!(&members(client), &model.0, "{:?}", call);
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn large_calls_stay_below_the_stack_limit_of_lua() {
    let server = RedisServer::start();
    let mut client = server.client();
    let range = |from: usize| (from..from + 2_500).collect::<Vec<_>>();
    let call = |releases, renewals, acquires| Call { releases, renewals, acquires, stale: false, expired: vec![] };
    let (granted, ..) = on_server(&mut client, &call(vec![], vec![], range(0)));
    assert_eq!(granted, CAPACITY);
    assert_eq!(on_server(&mut client, &call(vec![], range(0), vec![])).3, 2_500 - CAPACITY);
    assert_eq!(on_server(&mut client, &call(range(0), range(5_000), range(10_000))), (0, 2_500, 2_500, 2_500, FULL));
}

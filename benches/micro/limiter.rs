//! A limiter call of n permits: queue the acquires, write the call, take the reply, queue the releases for the next.

use std::hint::black_box;

use redis::Pipeline;
use thousandx::admit::redis::dialogue::Dialogue;
use thousandx::correlate::{CorrelationId, ShardAddress, Table};
use thousandx::kafka::wire::Outcome;

use super::{Meter, OWN, settings};

/// Alone; at the throughput of the targets; a burst.
const PERMITS: [u32; 3] = [1, 40, 400];

pub fn all(meter: &mut impl Meter) {
    let settings = settings(&[("RATE_LIMIT_CAPACITY", "100000")]).limiter;
    for permits in PERMITS {
        let what = format!("limiter: {permits} permits taken, {permits} given back");
        let table: Table<Outcome> = Table::new(ShardAddress { instance: 1, shard: 0 }, permits);
        let tickets: Vec<_> = (0..permits).map(|_| table.mint().expect("the table has room")).collect();
        let ids: Vec<CorrelationId> = tickets.iter().map(thousandx::correlate::Ticket::id).collect();

        let mut dialogue = Dialogue::new(&settings);
        meter.measure(&what, OWN, || dialogue.call(black_box(&ids)));
        // Less than ours: nobody waits, nothing is remembered, no reply is read.
        meter.measure(&what, "a script call each in a redis pipeline, written only", || {
            let mut pipeline = Pipeline::with_capacity(2 * ids.len());
            for script in ["c664a3bf70bd1d45c4284ffebb65a6f2299bfc9f", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"] {
                for id in black_box(&ids) {
                    let call = pipeline.cmd("EVALSHA").arg(script).arg(1).arg(&settings.set_key);
                    call.arg(settings.capacity).arg(&id.encode()[..]);
                }
            }
            pipeline.get_packed_pipeline()
        });
    }
}

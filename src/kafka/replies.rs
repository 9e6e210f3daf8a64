//! The reply reader: one thread that reads the reply partitions and posts batches to the shards' mailboxes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::counts::ReplyCounts;
use super::health::Health;
use super::native::{Code, Consumer, Events, Message, code_name};
use super::wire::{Completion, Decoded, Keep, Layout, Reply};
use crate::correlate::mailbox;

/// Most records of one round. Larger rounds save wakes and cost latency; at 100,000 replies a second a round that
/// takes 1 ms has 100.
const ROUND_RECORDS_MAX: usize = 1_024;
/// How long a read sleeps when there is nothing.
const READ_WAIT: Duration = Duration::from_millis(100);
/// Answers share allocations of this size. A client that reads its answer slowly keeps one alive: this bounds what
/// that costs.
const CHUNK_BYTES: usize = 16 * 1024;

/// The reader's callbacks.
pub(super) struct ReaderEvents {
    pub health: Arc<Health>,
    /// Tells the watcher to make sure of the connection before it declares the reader ready again.
    pub lost: Arc<AtomicBool>,
}

impl Events for ReaderEvents {
    fn error(&self, code: Code, reason: &str) {
        if code == Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN {
            self.lost.store(true, Ordering::Relaxed);
            self.health.set_replies(false, reason);
        } else {
            tracing::debug!(code = code_name(code), reason, "Kafka reply reader");
        }
    }
}

/// The reader thread's state.
pub(super) struct Reader {
    pub consumer: Arc<Consumer>,
    pub layout: Arc<Layout>,
    /// Only ids of this instance are ours.
    pub instance: u32,
    pub shards: Vec<mailbox::Sender<Completion>>,
    pub counts: Arc<ReplyCounts>,
}

impl Reader {
    /// Reads until `stop`.
    pub fn run(self, stop: &AtomicBool) {
        let mut batch = self.consumer.batch(ROUND_RECORDS_MAX);
        let mut chunk = Chunk::default();
        let mut rounds: Vec<Vec<Completion>> = self.shards.iter().map(|_| Vec::new()).collect();
        while !stop.load(Ordering::Relaxed) {
            let came = self.consumer.consume(&mut batch, ROUND_RECORDS_MAX, READ_WAIT);
            if came == 0 {
                continue;
            }
            self.counts.rounds.inc();
            self.counts.received.add(came as u64);
            for message in batch.iter() {
                self.sort(&message, &mut chunk, &mut rounds);
            }
            batch.clear();
            self.post(&mut rounds);
        }
    }

    /// Puts a reply that is ours into its shard's round; counts the others. Never logs a payload.
    fn sort(&self, message: &Message<'_>, chunk: &mut Chunk, rounds: &mut [Vec<Completion>]) {
        if let Some(code) = message.error() {
            self.counts.errors.inc();
            tracing::warn!(partition = message.partition(), code = code_name(code), "a reply partition cannot be read");
            return;
        }
        let (id, reply) = match self.layout.decode(message.headers(), message.payload()) {
            Decoded::Reply(id, reply) => (id, reply),
            Decoded::Unreadable => return self.counts.unreadable.inc(),
        };
        let address = id.address();
        if address.instance != self.instance {
            return self.counts.foreign.inc();
        }
        // A shard that does not exist: somebody guessed our instance number.
        let Some(round) = rounds.get_mut(usize::from(address.shard)) else { return self.counts.foreign.inc() };
        if let Reply::Malformed(why) = reply {
            self.counts.malformed.inc();
            let replies = self.counts.malformed.get();
            // A worker that cannot do better does it all the time: said for the 1st, 2nd, 4th, 8th…
            if replies.is_power_of_two() {
                tracing::warn!(%id, why, replies, "a reply could not be read: 502");
            }
        }
        round.push(Completion { id, outcome: reply.into_outcome(chunk) });
    }

    /// One push and one wake per shard.
    fn post(&self, rounds: &mut [Vec<Completion>]) {
        for (round, shard) in rounds.iter_mut().zip(&self.shards) {
            if round.is_empty() {
                continue;
            }
            // The next round is probably about as large as this one.
            let next = Vec::with_capacity(round.len());
            if let Err(refused) = shard.post(std::mem::replace(round, next)) {
                self.counts.dropped.add(refused.len() as u64);
            }
        }
    }
}

/// Keeps answers side by side in shared allocations: one allocation per 16 KiB of answers instead of one each.
#[derive(Default)]
pub struct Chunk(BytesMut);

impl Keep for Chunk {
    fn keep(&mut self, parts: &[&[u8]]) -> Bytes {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len == 0 {
            return Bytes::new();
        }
        // Large answers get their own, so that they neither waste nor pin a chunk.
        if len > CHUNK_BYTES / 4 {
            return parts.concat().into();
        }
        if self.0.capacity() < len {
            self.0 = BytesMut::with_capacity(CHUNK_BYTES);
        }
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_whole_whatever_their_size() {
        let mut chunk = Chunk::default();
        let kept: Vec<_> = (0..5_000_usize)
            .map(|n| {
                let text = format!("{n}").repeat(n % 700);
                (chunk.keep(&[&text.as_bytes()[..text.len() / 2], &text.as_bytes()[text.len() / 2..]]), text)
            })
            .collect();
        assert!(kept.iter().all(|(bytes, text)| bytes == text.as_bytes()));
        assert_eq!(chunk.keep(&[&vec![7; CHUNK_BYTES * 3]]).len(), CHUNK_BYTES * 3);
    }
}

//! Consuming in batches, by assignment or as a group member.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as ffi;

use super::conf::{events, guard};
use super::raw::{self, RawCode, code_at};
use super::{
    Code, Conf, Events, Handle, Message, TopicMetadata, c_name, consume_error, each, known, millis, object, ok,
};

/// `RD_KAFKA_PARTITION_UA`, a macro that the bindings do not have: any partition.
const UNASSIGNED: i32 = -1;

/// Where to start, or go on, in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The first record that is still there.
    Beginning,
    /// This offset.
    At(i64),
}

/// A consumer. Callbacks (errors, rebalance) run inside [`Consumer::consume`] and [`Consumer::close`].
pub struct Consumer {
    handle: Arc<Handle>,
    queue: NonNull<ffi::rd_kafka_queue_t>,
}

// SAFETY: librdkafka's queues are locked inside; any thread may serve them.
unsafe impl Send for Consumer {}
// SAFETY: as above.
unsafe impl Sync for Consumer {}

impl Consumer {
    /// Makes a consumer; does not wait for a broker.
    pub fn new(conf: Conf, events: Arc<dyn Events>) -> Result<Self, String> {
        let handle = Handle::new(ffi::rd_kafka_type_t::RD_KAFKA_CONSUMER, conf, events)?;
        // SAFETY: the client is alive and a consumer. The first call lets the consumer's queue serve the callbacks of
        // the main queue too, so that one call serves everything.
        let queue = unsafe {
            ok(raw::rd_kafka_poll_set_consumer(handle.raw())).map_err(|code| super::code_text(code).to_owned())?;
            ffi::rd_kafka_queue_get_consumer(handle.raw())
        };
        let queue = NonNull::new(queue).ok_or_else(|| "group.id is not set".to_owned())?;
        Ok(Self { handle: Arc::new(handle), queue })
    }

    /// An empty batch for at most `messages_max` messages of this consumer.
    #[must_use]
    pub fn batch(&self, messages_max: usize) -> Batch {
        Batch { raw: Vec::with_capacity(messages_max.max(1)), _handle: Arc::clone(&self.handle) }
    }

    /// Replaces the content of `batch` by what is there, at most `messages_max` and what the batch was made for: waits at
    /// most `wait` for the first message and not at all for the others, because a batch call of librdkafka with a timeout
    /// always waits it out. Returns how many came.
    pub fn consume(&self, batch: &mut Batch, messages_max: usize, wait: Duration) -> usize {
        batch.clear();
        if self.append(batch, wait, 1) == 1 && messages_max > 1 {
            self.append(batch, Duration::ZERO, messages_max - 1);
        }
        batch.raw.len()
    }

    fn append(&self, batch: &mut Batch, wait: Duration, room: usize) -> usize {
        let room = room.min(batch.raw.capacity() - batch.raw.len());
        let spare = batch.raw.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: the queue is alive; `spare` has room for `room` pointers; librdkafka initialises as many as it
        // returns and leaves the messages to us.
        unsafe {
            let came = ffi::rd_kafka_consume_batch_queue(self.queue.as_ptr(), millis(wait), spare, room);
            let came = usize::try_from(came).unwrap_or(0).min(room);
            batch.raw.set_len(batch.raw.len() + came);
            came
        }
    }

    /// Joins the group of the configuration as a reader of `topic`.
    pub fn subscribe(&self, topic: &str) -> Result<(), Code> {
        let mut list = List::new();
        list.add(topic, UNASSIGNED, None)?;
        // SAFETY: the client and the list are alive; librdkafka copies the list.
        ok(unsafe { raw::rd_kafka_subscribe(self.handle.raw(), list.0.as_ptr()) })
    }

    /// Reads these partitions too, without a group. They must not be assigned yet.
    pub fn assign_also(&self, topic: &str, partitions: &[(i32, Position)]) -> Result<(), Code> {
        let list = List::of(topic, partitions)?;
        // SAFETY: the client and the list are alive; librdkafka copies the list and leaves the error to us.
        unsafe { consume_error(ffi::rd_kafka_incremental_assign(self.handle.raw(), list.0.as_ptr())) }
    }

    /// Stops to read these partitions and forgets their positions. They must be assigned.
    pub fn unassign(&self, topic: &str, partitions: &[i32]) -> Result<(), Code> {
        let mut list = List::new();
        for partition in partitions {
            list.add(topic, *partition, None)?;
        }
        // SAFETY: as in `assign_also`.
        unsafe { consume_error(ffi::rd_kafka_incremental_unassign(self.handle.raw(), list.0.as_ptr())) }
    }

    /// Goes back (or forward) to these positions; what was fetched already is dropped. Each partition succeeds or fails
    /// for itself: returns those that failed, which stay where they were.
    pub fn seek(&self, topic: &str, partitions: &[(i32, Position)], timeout: Duration) -> Result<(), Vec<(i32, Code)>> {
        let all_failed = |code| partitions.iter().map(|(partition, _)| (*partition, code)).collect::<Vec<_>>();
        let list = List::of(topic, partitions).map_err(all_failed)?;
        // SAFETY: as in `assign_also`.
        let whole = unsafe {
            consume_error(ffi::rd_kafka_seek_partitions(self.handle.raw(), list.0.as_ptr(), millis(timeout)))
        };
        let mut failed = list.failed();
        // Out of time: those that were not done are marked as under way. Anything else concerns all.
        if let Err(code) = whole
            && failed.is_empty()
        {
            failed = all_failed(code);
        }
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Asks the leader for the first offset and the one after the last.
    pub fn watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> Result<(i64, i64), Code> {
        let (topic, mut low, mut high) = (c_name(topic)?, 0, 0);
        // SAFETY: the client is alive, the name NUL-terminated, both results writable.
        ok(unsafe {
            let (rk, low, high) = (self.handle.raw(), &raw mut low, &raw mut high);
            raw::rd_kafka_query_watermark_offsets(rk, topic.as_ptr(), partition, low, high, millis(timeout))
        })?;
        Ok((low, high))
    }

    /// Asks a broker about the topics that this consumer reads, within `timeout`.
    pub fn metadata(&self, timeout: Duration) -> Result<Vec<TopicMetadata>, Code> {
        self.handle.metadata(timeout)
    }

    /// Stores the offsets to go on from, for the next commit. Partitions that were taken away meanwhile are skipped.
    pub fn store(&self, topic: &str, next: &[(i32, i64)]) -> Result<(), Code> {
        store(self.handle.raw(), topic, next)
    }

    /// Commits what is stored and waits for the answer.
    pub fn commit(&self) -> Result<(), Code> {
        commit(self.handle.raw())
    }

    /// Leaves the group: revokes, commits what is stored and waits for the coordinator.
    pub fn close(&self) -> Result<(), Code> {
        // SAFETY: the client is alive; callbacks run on this thread.
        ok(unsafe { raw::rd_kafka_consumer_close(self.handle.raw()) })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // SAFETY: our reference to the queue; the client is still alive because `handle` is dropped after this.
        unsafe { ffi::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// Messages of one consumer, reused from round to round.
pub struct Batch {
    raw: Vec<*mut ffi::rd_kafka_message_t>,
    /// Messages must not outlive their client.
    _handle: Arc<Handle>,
}

impl Batch {
    /// The messages, and errors among them ([`Message::error`]), in order.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        // SAFETY: each pointer came from librdkafka and is destroyed by `clear` only, which needs `&mut self`.
        self.raw.iter().map(|raw| unsafe { Message::new(*raw) })
    }

    /// Gives the messages back to librdkafka.
    pub fn clear(&mut self) {
        for message in self.raw.drain(..) {
            // SAFETY: ours, and gone from the list.
            unsafe { ffi::rd_kafka_message_destroy(message) };
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A group member whose partitions are being taken away, during [`Events::revoked`].
pub struct Revoked<'a> {
    rk: *mut ffi::rd_kafka_t,
    lost: bool,
    life: std::marker::PhantomData<&'a ()>,
}

impl Revoked<'_> {
    /// The group went on without this member; commits are refused.
    #[must_use]
    pub const fn lost(&self) -> bool {
        self.lost
    }

    /// As [`Consumer::store`].
    pub fn store(&self, topic: &str, next: &[(i32, i64)]) -> Result<(), Code> {
        store(self.rk, topic, next)
    }

    /// As [`Consumer::commit`].
    pub fn commit(&self) -> Result<(), Code> {
        commit(self.rk)
    }
}

pub(super) unsafe extern "C" fn on_rebalance(
    rk: *mut ffi::rd_kafka_t,
    code: RawCode,
    partitions: *mut ffi::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: librdkafka passes the client, a list that is valid during the call, and the client's opaque. Only eager
    // assignors are configured, so plain assign is the right answer to both kinds.
    unsafe {
        let events = events(opaque);
        let (code, list) = if known(code) == Code::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let count = usize::try_from((*partitions).cnt).unwrap_or(0);
            guard("assigned", || events.assigned(count));
            (raw::rd_kafka_assign(rk, partitions), "given")
        } else {
            let lost = ffi::rd_kafka_assignment_lost(rk) != 0;
            guard("revoked", || events.revoked(&Revoked { rk, lost, life: std::marker::PhantomData }));
            (raw::rd_kafka_assign(rk, ptr::null()), "taken away")
        };
        if let Err(code) = ok(code) {
            tracing::error!(error = super::code_text(code), "the partitions were {list}, and that failed");
        }
    }
}

fn store(rk: *mut ffi::rd_kafka_t, topic: &str, next: &[(i32, i64)]) -> Result<(), Code> {
    let mut list = List::new();
    for (partition, offset) in next {
        list.add(topic, *partition, Some(*offset))?;
    }
    // SAFETY: callers pass a live client; the list is ours and alive. A partition that is not assigned any more gets
    // its own error in the list, which is what we want: skip it.
    ok(unsafe { raw::rd_kafka_offsets_store(rk, list.0.as_ptr()) })
}

fn commit(rk: *mut ffi::rd_kafka_t) -> Result<(), Code> {
    // SAFETY: callers pass a live client; null means all stored offsets.
    match ok(unsafe { raw::rd_kafka_commit(rk, ptr::null(), 0) }) {
        // Nothing new since the last commit.
        Err(Code::RD_KAFKA_RESP_ERR__NO_OFFSET) => Ok(()),
        result => result,
    }
}

/// A list of partitions, owned.
struct List(NonNull<ffi::rd_kafka_topic_partition_list_t>);

impl List {
    fn new() -> Self {
        // SAFETY: takes a size hint and returns a fresh object (it aborts when memory is out).
        let list = unsafe { ffi::rd_kafka_topic_partition_list_new(1) };
        Self(object(list))
    }

    fn of(topic: &str, partitions: &[(i32, Position)]) -> Result<Self, Code> {
        let mut list = Self::new();
        for (partition, position) in partitions {
            let offset = match position {
                Position::Beginning => i64::from(ffi::RD_KAFKA_OFFSET_BEGINNING),
                Position::At(offset) => *offset,
            };
            list.add(topic, *partition, Some(offset))?;
        }
        Ok(list)
    }

    fn add(&mut self, topic: &str, partition: i32, offset: Option<i64>) -> Result<(), Code> {
        let topic = c_name(topic)?;
        // SAFETY: the list is ours, the name NUL-terminated and copied; the new element is valid until the next add.
        unsafe {
            let element = ffi::rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), partition);
            if let Some(offset) = offset {
                (*element).offset = offset;
            }
        }
        Ok(())
    }

    /// The partitions in which librdkafka has left an error.
    fn failed(&self) -> Vec<(i32, Code)> {
        // SAFETY: the list is ours and its count fits its array. Fields are read one by one, without a reference to the
        // whole element: the code in it may be none of the enum's.
        unsafe {
            let list = self.0.as_ptr();
            each((*list).elems, (*list).cnt)
                .filter_map(|element| Some(((*element).partition, ok(code_at(&raw const (*element).err)).err()?)))
                .collect()
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { ffi::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) };
    }
}

//! Producing by topic handle, with an explicit partition and borrowed parts.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as ffi;

use super::{Code, Conf, Events, Handle, TopicMetadata, c_name, consume_error, millis, ok, raw};

/// Most headers of one record: what a task can have, with room. Lets the argument list live on the stack.
pub const HEADERS_MAX: usize = 12;

/// Topic, partition, flags, value, opaque.
const FIXED_ARGUMENTS: usize = 5;

/// A producer; clones share it.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// A topic of one producer; clones share it. Looked up once instead of per record.
#[derive(Clone)]
pub struct Topic {
    inner: Arc<TopicInner>,
}

struct TopicInner {
    rkt: NonNull<ffi::rd_kafka_topic_t>,
    handle: Arc<Handle>,
}

/// The parts of one record; all are copied by [`Topic::produce`].
pub struct Record<'a> {
    /// The value.
    pub payload: &'a [u8],
    /// At most [`HEADERS_MAX`].
    pub headers: &'a [(&'a CStr, &'a [u8])],
    /// Comes back in the delivery report.
    pub opaque: usize,
}

impl Producer {
    /// Makes a producer; does not wait for a broker.
    pub fn new(mut conf: Conf, events: Arc<dyn Events>) -> Result<Self, String> {
        conf.report_deliveries();
        let handle = Handle::new(ffi::rd_kafka_type_t::RD_KAFKA_PRODUCER, conf, events)?;
        Ok(Self { handle: Arc::new(handle) })
    }

    /// A handle of a topic, which need not exist yet; from now on [`Producer::metadata`] asks about it too.
    pub fn topic(&self, name: &str) -> Result<Topic, Code> {
        let name = c_name(name)?;
        // SAFETY: the client is alive, the name NUL-terminated; a null configuration means the client's defaults.
        let rkt = unsafe { ffi::rd_kafka_topic_new(self.handle.raw(), name.as_ptr(), ptr::null_mut()) };
        let rkt = NonNull::new(rkt).ok_or(Code::RD_KAFKA_RESP_ERR__INVALID_ARG)?;
        Ok(Topic { inner: Arc::new(TopicInner { rkt, handle: Arc::clone(&self.handle) }) })
    }

    /// Serves delivery reports and errors: all that are there, or the first that come within `wait`.
    pub fn poll(&self, wait: Duration) {
        // SAFETY: the client is alive. The result is how many were served, which nobody needs.
        unsafe { ffi::rd_kafka_poll(self.handle.raw(), millis(wait)) };
    }

    /// Waits until everything is delivered or given up, serving reports; `false` when `deadline` came first.
    #[must_use]
    pub fn flush(&self, deadline: Duration) -> bool {
        // SAFETY: the client is alive and a producer.
        ok(unsafe { raw::rd_kafka_flush(self.handle.raw(), millis(deadline)) }).is_ok()
    }

    /// Gives up everything that is queued or under way; the reports follow by [`Producer::poll`].
    pub fn purge(&self) {
        let flags = ffi::RD_KAFKA_PURGE_F_QUEUE | ffi::RD_KAFKA_PURGE_F_INFLIGHT | ffi::RD_KAFKA_PURGE_F_NON_BLOCKING;
        // SAFETY: the client is alive and a producer. The code can only say that it is not.
        let _ = unsafe { raw::rd_kafka_purge(self.handle.raw(), flags) };
    }

    /// Records that wait for a broker, and reports that wait for a poll.
    #[must_use]
    pub fn queued(&self) -> usize {
        // SAFETY: the client is alive.
        usize::try_from(unsafe { ffi::rd_kafka_outq_len(self.handle.raw()) }).unwrap_or(0)
    }

    /// Asks a broker about the topics with handles, within `timeout`.
    pub fn metadata(&self, timeout: Duration) -> Result<Vec<TopicMetadata>, Code> {
        self.handle.metadata(timeout)
    }
}

// SAFETY: topic handles are reference-counted and locked inside librdkafka; any thread may use them.
unsafe impl Send for TopicInner {}
// SAFETY: as above.
unsafe impl Sync for TopicInner {}

impl Drop for TopicInner {
    fn drop(&mut self) {
        // SAFETY: the last owner; the client is still alive because `handle` is dropped after this.
        unsafe { ffi::rd_kafka_topic_destroy(self.rkt.as_ptr()) };
    }
}

impl Topic {
    /// Queues a record for `partition` and returns; never blocks. A later failure comes as a report.
    #[inline]
    pub fn produce(&self, partition: i32, record: &Record<'_>) -> Result<(), Code> {
        if record.headers.len() > HEADERS_MAX {
            return Err(Code::RD_KAFKA_RESP_ERR__INVALID_ARG);
        }
        let mut arguments = Arguments::new();
        arguments.push(Tag::RD_KAFKA_VTYPE_RKT, Value { rkt: self.inner.rkt.as_ptr() });
        arguments.push(Tag::RD_KAFKA_VTYPE_PARTITION, Value { i32_: partition });
        arguments.push(Tag::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: ffi::RD_KAFKA_MSG_F_COPY as c_int });
        // The value is copied because of the flag above, so the pointer is only read, during the call.
        let mem = Memory { ptr: record.payload.as_ptr().cast_mut().cast(), size: record.payload.len() };
        arguments.push(Tag::RD_KAFKA_VTYPE_VALUE, Value { mem });
        arguments.push(Tag::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: record.opaque as *mut c_void });
        for (name, value) in record.headers {
            let size = isize::try_from(value.len()).unwrap_or(0);
            let header = Header { name: name.as_ptr(), val: value.as_ptr().cast(), size };
            arguments.push(Tag::RD_KAFKA_VTYPE_HEADER, Value { header });
        }
        // SAFETY: the client and the topic are alive and belong together; the first `len` arguments are initialised,
        // each with the member that its tag names; everything they point to outlives the call and is copied by it.
        unsafe {
            let error = ffi::rd_kafka_produceva(self.inner.handle.raw(), arguments.as_ptr(), arguments.len);
            consume_error(error)
        }
    }
}

use ffi::rd_kafka_vtype_t as Tag;
use ffi::rd_kafka_vu_s__bindgen_ty_1 as Value;
use ffi::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 as Memory;
use ffi::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 as Header;

/// The argument list of one produce call, on the stack and written only as far as needed.
struct Arguments {
    list: [MaybeUninit<ffi::rd_kafka_vu_t>; FIXED_ARGUMENTS + HEADERS_MAX],
    len: usize,
}

impl Arguments {
    const fn new() -> Self {
        Self { list: [MaybeUninit::uninit(); FIXED_ARGUMENTS + HEADERS_MAX], len: 0 }
    }

    fn push(&mut self, tag: Tag, value: Value) {
        // Written in place: the union is padded to 64 bytes, which need not be copied.
        self.list[self.len].write(ffi::rd_kafka_vu_t { vtype: tag, u: value });
        self.len += 1;
    }

    const fn as_ptr(&self) -> *const ffi::rd_kafka_vu_t {
        self.list.as_ptr().cast()
    }
}

//! Safe wrappers over the librdkafka calls that the hot path needs; the only place with `unsafe`.
//!
//! The `rdkafka` crate's own producer and consumer allocate, look topics up and wake per message; these wrappers do
//! neither: a record goes out by topic handle with borrowed parts, and messages come in as borrowed views of a batch.
//!
//! Ownership: [`Handle`] owns one `rd_kafka_t` and everything else ([`Topic`], [`Batch`], clients) keeps it alive by
//! `Arc`, so a pointer into librdkafka never outlives its client. Destroying a client can take seconds, so the last
//! owner hands that to a detached thread ([`Handle`]'s `Drop`).
#![allow(unsafe_code, reason = "this module is the boundary to librdkafka's C interface")]

mod conf;
mod consumer;
mod message;
mod producer;
mod raw;

use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings as ffi;

pub use conf::{BadProperty, Conf};
pub use consumer::{Batch, Consumer, Position, Revoked};
pub use message::{Headers, Message};
pub use producer::{HEADERS_MAX, Producer, Record, Topic};
use raw::{NO_ERROR, RawCode, code_at, known};
/// librdkafka's error codes, local ones (`RD_KAFKA_RESP_ERR__…`) and the broker's.
pub use rdkafka::bindings::rd_kafka_resp_err_t as Code;

/// What librdkafka tells the owner of a client. Called on the thread that polls the client (`poll`, `flush`,
/// `consume`, `close`); must not block for long.
pub trait Events: Send + Sync + 'static {
    /// A record was delivered or given up ([`Message::error`]); only failures when `delivery.report.only.error` is on.
    fn report(&self, message: &Message<'_>) {
        let _ = message;
    }

    /// An error of the client as a whole; librdkafka recovers by itself from all but fatal ones.
    fn error(&self, code: Code, reason: &str) {
        let _ = (code, reason);
    }

    /// The group took the partitions away. What is stored and committed before the return still counts.
    fn revoked(&self, member: &Revoked<'_>) {
        let _ = member;
    }

    /// The group gave this many partitions.
    fn assigned(&self, partitions: usize) {
        let _ = partitions;
    }
}

/// What a broker says about one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: String,
    /// Why the rest is empty.
    pub error: Option<Code>,
    /// Partition ids, ascending, and whether each has a leader now.
    pub partitions: Vec<(i32, bool)>,
}

/// The symbolic name of a code, e.g. `_MSG_TIMED_OUT`: a metric label.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    // SAFETY: rd_kafka_err2name returns a static NUL-terminated string for every code that librdkafka knows, and the
    // bindings' enum has no others (`known`).
    unsafe { CStr::from_ptr(ffi::rd_kafka_err2name(code)) }.to_str().unwrap_or("unknown")
}

/// The description of a code in English.
#[must_use]
pub fn code_text(code: Code) -> &'static str {
    // SAFETY: rd_kafka_err2str takes any code and returns a NUL-terminated string that is static for codes that
    // librdkafka knows; the bindings' enum has no others (`known`).
    unsafe { CStr::from_ptr(ffi::rd_kafka_err2str(code)) }.to_str().unwrap_or("unknown error")
}

/// Between two times that a client without a broker is told its first brokers again. Each time costs some bytes that
/// librdkafka keeps: half a megabyte in a day without Kafka.
const TELL_BROKERS_INTERVAL: Duration = Duration::from_secs(5);

/// Owner of one librdkafka client.
struct Handle {
    rk: NonNull<ffi::rd_kafka_t>,
    /// When the client was last told its first brokers again.
    brokers_told: Mutex<Option<Instant>>,
    /// What the opaque pointer of the client points to; freed after the client.
    events: NonNull<Arc<dyn Events>>,
}

// SAFETY: librdkafka's handle may be used from any thread at once (its introduction, "Threads and callbacks"), and
// `Events` is Send + Sync.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Makes the client. The text of a failure names no values.
    fn new(kind: ffi::rd_kafka_type_t, conf: Conf, events: Arc<dyn Events>) -> Result<Self, String> {
        let events = NonNull::from(Box::leak(Box::new(events)));
        let mut text = [0; 512];
        let raw = conf.into_raw(events);
        // SAFETY: `raw` is a configuration that we own; `text` is writable for the length given.
        let rk = unsafe { ffi::rd_kafka_new(kind, raw, text.as_mut_ptr(), text.len()) };
        if let Some(rk) = NonNull::new(rk) {
            return Ok(Self { rk, brokers_told: Mutex::default(), events });
        }
        // SAFETY: on failure rd_kafka_new leaves the configuration to the caller; no client refers to `events`, which
        // came from a Box above; librdkafka has NUL-terminated `text`.
        unsafe {
            ffi::rd_kafka_conf_destroy(raw);
            drop(Box::from_raw(events.as_ptr()));
            Err(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned())
        }
    }

    const fn raw(&self) -> *mut ffi::rd_kafka_t {
        self.rk.as_ptr()
    }

    /// Asks a broker about all topics that the client has handles of or reads; bounded by `timeout`. A client that knows
    /// no broker is told its first ones again.
    fn metadata(&self, timeout: Duration) -> Result<Vec<TopicMetadata>, Code> {
        let mut found: *const ffi::rd_kafka_metadata = ptr::null();
        // SAFETY: the client is alive; a null topic means "all that are known here"; `found` is set on success only.
        let code = unsafe { raw::rd_kafka_metadata(self.raw(), 0, ptr::null_mut(), &raw mut found, millis(timeout)) };
        if let Err(code) = ok(code) {
            if code == Code::RD_KAFKA_RESP_ERR__TRANSPORT {
                self.tell_brokers();
            }
            return Err(code);
        }
        // SAFETY: on success `found` is a valid structure until it is destroyed below; nothing borrowed from it leaves.
        unsafe {
            let topics = each((*found).topics, (*found).topic_cnt).map(|topic| read_topic(topic)).collect();
            ffi::rd_kafka_metadata_destroy(found);
            Ok(topics)
        }
    }

    /// A broker that was just started or continued may say that there are no brokers, and librdkafka forgets all that it
    /// knows, the first ones too: for good, since it asks nobody any more (librdkafka issue 5301). Telling it what it
    /// knows already changes nothing.
    fn tell_brokers(&self) {
        let mut told = self.brokers_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| told.elapsed() < TELL_BROKERS_INTERVAL) {
            return;
        }
        *told = Some(Instant::now());
        let Some(brokers) = self.first_brokers() else { return };
        // SAFETY: the client is alive, the list NUL-terminated and copied by the call.
        unsafe { ffi::rd_kafka_brokers_add(self.raw(), brokers.as_ptr()) };
    }

    /// `bootstrap.servers`, as the client was made with it.
    fn first_brokers(&self) -> Option<CString> {
        let mut bytes = 0;
        // SAFETY: the client, and with it its configuration, is alive. Without a buffer only the size is written, NUL
        // included; then the buffer is as large as that.
        unsafe {
            let (conf, name) = (ffi::rd_kafka_conf(self.raw()), c"bootstrap.servers".as_ptr());
            let result = ffi::rd_kafka_conf_get(conf, name, ptr::null_mut(), &raw mut bytes);
            if result != ffi::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                return None;
            }
            let mut text = vec![0_u8; bytes];
            let result = ffi::rd_kafka_conf_get(conf, name, text.as_mut_ptr().cast(), &raw mut bytes);
            (result == ffi::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK).then_some(())?;
            CString::from_vec_with_nul(text).ok()
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        struct Doomed(NonNull<ffi::rd_kafka_t>, NonNull<Arc<dyn Events>>);
        // SAFETY: both pointers are owned by this value alone from here on; see `Handle` for threads.
        unsafe impl Send for Doomed {}
        let doomed = Doomed(self.rk, self.events);
        let destroy = move || {
            let Doomed(rk, events) = { doomed };
            // SAFETY: this was the last owner (`Drop` of the Arc's content), so nobody uses the client any more; its
            // callbacks have ended when the destructor returns, and only then their state is freed.
            unsafe {
                ffi::rd_kafka_destroy_flags(rk.as_ptr(), ffi::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
                drop(Box::from_raw(events.as_ptr()));
            }
        };
        // The destructor waits for librdkafka's threads, which can take seconds when a broker hangs: never on the
        // caller's time. If no thread can be had, the client is leaked; the process is about to end anyway.
        if let Err(error) = std::thread::Builder::new().name("kafka-destroy".into()).spawn(destroy) {
            tracing::warn!(%error, "a Kafka client was left for the system to clean up");
        }
    }
}

/// # Safety
/// `topic` and what it points to must be librdkafka's and alive.
unsafe fn read_topic(topic: *const ffi::rd_kafka_metadata_topic) -> TopicMetadata {
    // SAFETY: by the caller; librdkafka's names are NUL-terminated and its counts fit its arrays. Fields are read one by
    // one, without a reference to the whole: the codes in it may be none of the enum's.
    unsafe {
        let name = CStr::from_ptr((*topic).topic).to_string_lossy().into_owned();
        let error = ok(code_at(&raw const (*topic).err)).err();
        let partitions = each((*topic).partitions, (*topic).partition_cnt);
        let mut partitions: Vec<_> = partitions.map(|partition| ((*partition).id, (*partition).leader >= 0)).collect();
        partitions.sort_unstable();
        TopicMetadata { name, error, partitions }
    }
}

/// Pointers to the elements of an array of C.
///
/// # Safety
/// `first` must point to `count` values that outlive the iterator, or `count` be 0.
unsafe fn each<T>(first: *const T, count: c_int) -> impl Iterator<Item = *const T> {
    let count = if first.is_null() { 0 } else { usize::try_from(count).unwrap_or(0) };
    // SAFETY: by the caller: below the count, so inside the array.
    (0..count).map(move |index| unsafe { first.add(index) })
}

/// A constructor's result. librdkafka aborts the process itself when memory is out, so there always is one.
fn object<T>(made: *mut T) -> NonNull<T> {
    NonNull::new(made).unwrap_or_else(|| std::process::abort())
}

/// A code as a result.
#[inline]
fn ok(code: RawCode) -> Result<(), Code> {
    if code == NO_ERROR { Ok(()) } else { Err(known(code)) }
}

/// An error object as a result; frees it.
///
/// # Safety
/// `error` must be null or an error object that the caller owns.
unsafe fn consume_error(error: *mut ffi::rd_kafka_error_t) -> Result<(), Code> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: by the caller.
    unsafe {
        let code = raw::rd_kafka_error_code(error);
        ffi::rd_kafka_error_destroy(error);
        Err(known(code))
    }
}

/// Whole milliseconds for librdkafka, rounded up so that a short wait does not become a busy loop.
fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// A topic name for librdkafka; a NUL in it makes it a name that no topic has.
fn c_name(name: &str) -> Result<CString, Code> {
    CString::new(name).map_err(|_| Code::RD_KAFKA_RESP_ERR__INVALID_ARG)
}

//! A client's configuration and the callbacks that every client has.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use rdkafka::bindings as ffi;

use super::consumer::on_rebalance;
use super::{Code, Events, Message, known, object, raw};

/// A property that librdkafka does not take. Never shows the value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProperty {
    /// No such property in this version and build.
    #[error("librdkafka has no property named {0}")]
    Unknown(String),
    /// The property exists, the value is not one of its values.
    #[error("librdkafka does not take the value given for {0}")]
    Value(String),
}

/// The configuration of one client.
pub struct Conf(NonNull<ffi::rd_kafka_conf_t>);

impl Conf {
    /// librdkafka's defaults.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: rd_kafka_conf_new takes nothing and returns a fresh object (it aborts when memory is out).
        let conf = unsafe { ffi::rd_kafka_conf_new() };
        Self(object(conf))
    }

    /// Sets one property.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), BadProperty> {
        let (Ok(c_name), Ok(c_value)) = (CString::new(name), CString::new(value)) else {
            return Err(BadProperty::Value(name.to_owned()));
        };
        // librdkafka's own text repeats the value, so it is asked for but not used.
        let mut text = [0; 128];
        // SAFETY: the configuration is ours, the strings are NUL-terminated, `text` has the length given.
        let result = unsafe {
            let (name, value) = (c_name.as_ptr(), c_value.as_ptr());
            ffi::rd_kafka_conf_set(self.0.as_ptr(), name, value, text.as_mut_ptr(), text.len())
        };
        match result {
            ffi::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
            ffi::rd_kafka_conf_res_t::RD_KAFKA_CONF_UNKNOWN => Err(BadProperty::Unknown(name.to_owned())),
            ffi::rd_kafka_conf_res_t::RD_KAFKA_CONF_INVALID => Err(BadProperty::Value(name.to_owned())),
        }
    }

    /// The group's partitions are handed over by callback ([`Events::revoked`]): for a group member only.
    pub fn rebalance_by_callback(&mut self) {
        // SAFETY: the configuration is ours; the callback has the type that librdkafka calls.
        unsafe { raw::rd_kafka_conf_set_rebalance_cb(self.0.as_ptr(), Some(on_rebalance)) };
    }

    /// Delivery reports are wanted: for a producer only.
    pub fn report_deliveries(&mut self) {
        // SAFETY: as above.
        unsafe { ffi::rd_kafka_conf_set_dr_msg_cb(self.0.as_ptr(), Some(on_report)) };
    }

    /// Gives the configuration away, with `events` as the opaque of every callback.
    pub(super) fn into_raw(self, events: NonNull<Arc<dyn Events>>) -> *mut ffi::rd_kafka_conf_t {
        let conf = self.0.as_ptr();
        std::mem::forget(self);
        // SAFETY: the configuration was ours; `events` outlives the client that is made from it (see `Handle`).
        unsafe {
            ffi::rd_kafka_conf_set_opaque(conf, events.as_ptr().cast());
            ffi::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            ffi::rd_kafka_conf_set_log_cb(conf, Some(on_log));
        }
        conf
    }
}

impl Default for Conf {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: not given away (`into_raw` forgets), so still ours.
        unsafe { ffi::rd_kafka_conf_destroy(self.0.as_ptr()) };
    }
}

/// The events of the client that calls back.
///
/// # Safety
/// `opaque` must be what [`Conf::into_raw`] set.
pub(super) unsafe fn events<'a>(opaque: *mut c_void) -> &'a dyn Events {
    // SAFETY: by the caller; the pointee lives until the client is destroyed, and callbacks end before that.
    unsafe { &**opaque.cast::<Arc<dyn Events>>() }
}

/// Runs a callback's body: a panic must not unwind into C, where it would abort the process without a word.
pub(super) fn guard(what: &'static str, body: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        tracing::error!(what, "a Kafka callback panicked");
    }
}

/// # Safety
/// `text` must be null or NUL-terminated.
unsafe fn text<'a>(text: *const c_char) -> std::borrow::Cow<'a, str> {
    // SAFETY: by the caller.
    if text.is_null() { "".into() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy() }
}

unsafe extern "C" fn on_report(
    _rk: *mut ffi::rd_kafka_t,
    message: *const ffi::rd_kafka_message_t,
    opaque: *mut c_void,
) {
    // SAFETY: librdkafka passes a message that is valid during the call, and the client's opaque.
    let (message, events) = unsafe { (Message::new(message), events(opaque)) };
    guard("delivery report", || events.report(&message));
}

unsafe extern "C" fn on_error(rk: *mut ffi::rd_kafka_t, code: c_int, reason: *const c_char, opaque: *mut c_void) {
    let mut detail = [0; 256];
    // SAFETY: librdkafka passes the client, NUL-terminated text and the client's opaque; `detail` has the length given.
    // A fatal error is a general code whose real one is asked for.
    let (code, reason, events) = unsafe {
        let mut code = known(code);
        if code == Code::RD_KAFKA_RESP_ERR__FATAL {
            code = known(raw::rd_kafka_fatal_error(rk, detail.as_mut_ptr(), detail.len()));
        }
        (code, text(reason), events(opaque))
    };
    guard("error", || events.error(code, &reason));
}

unsafe extern "C" fn on_log(_rk: *const ffi::rd_kafka_t, level: c_int, facility: *const c_char, line: *const c_char) {
    // SAFETY: librdkafka passes NUL-terminated text.
    let (facility, line) = unsafe { (text(facility), text(line)) };
    guard("log", || match level {
        ..=3 => tracing::error!(target: "librdkafka", %facility, "{line}"),
        4 => tracing::warn!(target: "librdkafka", %facility, "{line}"),
        5 | 6 => tracing::info!(target: "librdkafka", %facility, "{line}"),
        _ => tracing::debug!(target: "librdkafka", %facility, "{line}"),
    });
}

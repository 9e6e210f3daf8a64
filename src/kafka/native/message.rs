//! A borrowed view of a record, received or reported.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr;

use rdkafka::bindings as ffi;

use super::{Code, code_at, ok, raw};

/// A record that librdkafka owns. Not `Sync`: reading the headers for the first time parses them in place.
///
/// Fields are read one by one through the pointer, never by a reference to the whole: the code in it may be none of the
/// bindings' enum.
pub struct Message<'a> {
    raw: *const ffi::rd_kafka_message_t,
    life: PhantomData<&'a ()>,
}

impl<'a> Message<'a> {
    /// # Safety
    /// `raw` must be a message of librdkafka that stays valid for `'a`.
    pub(super) const unsafe fn new(raw: *const ffi::rd_kafka_message_t) -> Self {
        Self { raw, life: PhantomData }
    }

    /// Why this is not a record (consumer) or was not delivered (producer).
    #[must_use]
    pub fn error(&self) -> Option<Code> {
        // SAFETY: valid for 'a by `new`.
        ok(unsafe { code_at(&raw const (*self.raw).err) }).err()
    }

    /// The partition.
    #[must_use]
    pub const fn partition(&self) -> i32 {
        // SAFETY: valid for 'a by `new`.
        unsafe { (*self.raw).partition }
    }

    /// The offset.
    #[must_use]
    pub const fn offset(&self) -> i64 {
        // SAFETY: valid for 'a by `new`.
        unsafe { (*self.raw).offset }
    }

    /// What [`Record::opaque`](super::Record::opaque) was (producer).
    #[must_use]
    pub fn opaque(&self) -> usize {
        // SAFETY: valid for 'a by `new`.
        unsafe { (*self.raw)._private as usize }
    }

    /// The value; empty for a tombstone. For a message with an error of the consumer it is text about the error.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        // SAFETY: valid for 'a by `new`.
        let (payload, len) = unsafe { ((*self.raw).payload, (*self.raw).len) };
        if payload.is_null() || len == 0 {
            return &[];
        }
        // SAFETY: librdkafka's payload has `len` bytes and lives as long as the message, i.e. for 'a.
        unsafe { std::slice::from_raw_parts(payload.cast_const().cast(), len) }
    }

    /// The headers, in order; names are not decoded and may repeat.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        let mut list = ptr::null_mut();
        // SAFETY: the message is valid, and this thread alone looks at it (not Sync). On anything but success `list`
        // stays null, which the iterator takes as empty.
        let code = unsafe { raw::rd_kafka_message_headers(self.raw, &raw mut list) };
        Headers { list: if ok(code).is_ok() { list } else { ptr::null_mut() }, next: 0, life: PhantomData }
    }
}

/// Iterator over `(name, value)`; a null value reads as empty.
pub struct Headers<'a> {
    list: *mut ffi::rd_kafka_headers_t,
    next: usize,
    life: PhantomData<&'a ()>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.list.is_null() {
            return None;
        }
        let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list belongs to the message and lives for 'a; the three pointers are writable.
        let code =
            unsafe { raw::rd_kafka_header_get_all(self.list, self.next, &raw mut name, &raw mut value, &raw mut len) };
        ok(code).ok()?;
        self.next += 1;
        // SAFETY: on success `name` is NUL-terminated and `value` null or `len` bytes, both owned by the list.
        unsafe {
            let value = if value.is_null() { &[] } else { std::slice::from_raw_parts(value.cast(), len) };
            Some((CStr::from_ptr(name).to_bytes(), value))
        }
    }
}

//! The functions of librdkafka that give or take an error code, declared with the code as the integer that it is in C.
//!
//! The bindings declare it as an enum, and lack codes that brokers send and librdkafka passes on (98, 99, 101 to 109,
//! 114 to 116, 119 to 128). An enum with another value than its own is undefined behaviour in Rust, so a code is an
//! integer until [`known`] has looked at it. For the same reason no reference is made to a structure with such a field:
//! it is read through a raw pointer, by [`code_at`].

use std::ffi::{c_char, c_int, c_void};

use rdkafka::bindings as ffi;

use super::Code;

/// A code as C has it.
pub type RawCode = c_int;

/// The code of a call that worked.
pub const NO_ERROR: RawCode = Code::RD_KAFKA_RESP_ERR_NO_ERROR as RawCode;

/// The code by its name, or `RD_KAFKA_RESP_ERR_UNKNOWN` when the bindings have no name for it.
pub fn known(code: RawCode) -> Code {
    Code::try_from(code).unwrap_or_else(|_| {
        tracing::debug!(code, "an error code of Kafka that has no name here");
        Code::RD_KAFKA_RESP_ERR_UNKNOWN
    })
}

/// Reads the field of a structure that is declared as the enum.
///
/// # Safety
/// `field` must point to initialised memory, whatever the number in it is.
pub const unsafe fn code_at(field: *const Code) -> RawCode {
    const { assert!(size_of::<Code>() == size_of::<RawCode>() && align_of::<Code>() == align_of::<RawCode>()) };
    // SAFETY: by the caller, and every number is a valid integer of this size and alignment.
    unsafe { field.cast::<RawCode>().read() }
}

/// As `rd_kafka_conf_set_rebalance_cb` wants it.
pub type Rebalance =
    unsafe extern "C" fn(*mut ffi::rd_kafka_t, RawCode, *mut ffi::rd_kafka_topic_partition_list_t, *mut c_void);

// SAFETY: the signatures are those of rdkafka.h of the librdkafka that `rdkafka-sys` builds and links, where the code is
// an enum, i.e. an int.
unsafe extern "C" {
    pub fn rd_kafka_assign(
        rk: *mut ffi::rd_kafka_t,
        partitions: *const ffi::rd_kafka_topic_partition_list_t,
    ) -> RawCode;
    pub fn rd_kafka_commit(
        rk: *mut ffi::rd_kafka_t,
        offsets: *const ffi::rd_kafka_topic_partition_list_t,
        is_async: c_int,
    ) -> RawCode;
    pub fn rd_kafka_conf_set_rebalance_cb(conf: *mut ffi::rd_kafka_conf_t, rebalance: Option<Rebalance>);
    pub fn rd_kafka_consumer_close(rk: *mut ffi::rd_kafka_t) -> RawCode;
    pub fn rd_kafka_error_code(error: *const ffi::rd_kafka_error_t) -> RawCode;
    pub fn rd_kafka_fatal_error(rk: *mut ffi::rd_kafka_t, text: *mut c_char, text_bytes: usize) -> RawCode;
    pub fn rd_kafka_flush(rk: *mut ffi::rd_kafka_t, timeout_ms: c_int) -> RawCode;
    pub fn rd_kafka_header_get_all(
        headers: *const ffi::rd_kafka_headers_t,
        index: usize,
        name: *mut *const c_char,
        value: *mut *const c_void,
        value_bytes: *mut usize,
    ) -> RawCode;
    pub fn rd_kafka_message_headers(
        message: *const ffi::rd_kafka_message_t,
        headers: *mut *mut ffi::rd_kafka_headers_t,
    ) -> RawCode;
    pub fn rd_kafka_metadata(
        rk: *mut ffi::rd_kafka_t,
        all_topics: c_int,
        only: *mut ffi::rd_kafka_topic_t,
        found: *mut *const ffi::rd_kafka_metadata,
        timeout_ms: c_int,
    ) -> RawCode;
    pub fn rd_kafka_offsets_store(
        rk: *mut ffi::rd_kafka_t,
        offsets: *mut ffi::rd_kafka_topic_partition_list_t,
    ) -> RawCode;
    pub fn rd_kafka_poll_set_consumer(rk: *mut ffi::rd_kafka_t) -> RawCode;
    pub fn rd_kafka_purge(rk: *mut ffi::rd_kafka_t, flags: c_int) -> RawCode;
    pub fn rd_kafka_query_watermark_offsets(
        rk: *mut ffi::rd_kafka_t,
        topic: *const c_char,
        partition: i32,
        low: *mut i64,
        high: *mut i64,
        timeout_ms: c_int,
    ) -> RawCode;
    pub fn rd_kafka_subscribe(rk: *mut ffi::rd_kafka_t, topics: *const ffi::rd_kafka_topic_partition_list_t)
    -> RawCode;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_without_a_name_is_an_unknown_one() {
        assert_eq!(known(0), Code::RD_KAFKA_RESP_ERR_NO_ERROR);
        assert_eq!(known(-195), Code::RD_KAFKA_RESP_ERR__TRANSPORT);
        assert_eq!(known(3), Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
        for unnamed in [98, 103, 128, i32::MIN, i32::MAX] {
            assert_eq!(known(unnamed), Code::RD_KAFKA_RESP_ERR_UNKNOWN);
        }
    }

    #[test]
    fn a_field_is_read_whatever_is_in_it() {
        let field: RawCode = 103;
        // SAFETY: initialised memory of the size and alignment of a code.
        let code = unsafe { code_at((&raw const field).cast()) };
        assert_eq!(known(code), Code::RD_KAFKA_RESP_ERR_UNKNOWN);
    }
}

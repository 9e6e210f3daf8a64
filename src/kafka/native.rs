//! Safe wrappers over the librdkafka calls that the hot path needs; the only file with `unsafe`.

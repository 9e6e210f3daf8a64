//! Correlation ids: RFC 9562 UUIDs of version 8 that say where their request waits.
//!
//! ```text
//! 48 bits custom_a   instance (20) | shard (8) | slot (20)
//!  4 bits version    8
//! 12 bits custom_b   tag: keyed hash of all other bits, tells an old id of ours from a forged one
//!  2 bits variant    0b10
//! 62 bits custom_c   random stamp
//! ```

use std::fmt;

/// Where an id's request waits: the instance (20 random bits, chosen at boot) and the shard in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardAddress {
    /// 20 bits, random per boot.
    pub instance: u32,
    /// Index of the shard in the instance.
    pub shard: u8,
}

/// The bytes are not a UUID of version 8, neither as 36 characters of text nor as 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a correlation id")]
pub struct MalformedId;

/// A request's id. `Display` and [`CorrelationId::encode`] give the usual 36 characters, lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CorrelationId(u128);

impl CorrelationId {
    /// Length of the text form.
    pub const TEXT_LEN: usize = 36;

    /// Reads 36 characters of text (either case) or 16 raw bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, MalformedId> {
        let _ = bytes;
        todo!()
    }

    /// The text form, without allocating.
    #[must_use]
    pub fn encode(self) -> [u8; Self::TEXT_LEN] {
        todo!()
    }

    /// The 16 bytes in network order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The instance and shard that made it.
    #[must_use]
    pub fn address(self) -> ShardAddress {
        todo!()
    }

    /// The slot in the shard's table.
    #[must_use]
    pub fn slot(self) -> u32 {
        todo!()
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl fmt::Debug for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

//! Correlation ids: RFC 9562 UUIDs of version 8 that say where their request waits.
//!
//! ```text
//! 48 bits custom_a   instance (20) | shard (8) | slot (20)
//!  4 bits version    8
//! 12 bits custom_b   tag: keyed hash of all other bits, tells an old id of ours from a forged one
//!  2 bits variant    0b10
//! 62 bits custom_c   random stamp
//! ```
//!
//! The stamp makes an id unguessable; a reply is delivered only if all 128 bits fit. The tag decides nothing but which
//! counter an undeliverable reply is counted in, so 12 bits (one forgery in 4,096 is taken for an old id) are enough.

use std::fmt;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use uuid::Uuid;

/// Where an id's request waits: the instance (20 random bits, chosen at boot) and the shard in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardAddress {
    /// Below [`ShardAddress::INSTANCES`], random per boot.
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

/// Makes the ids of one shard and recognises them later.
pub(super) struct Minter {
    address: ShardAddress,
    /// Stamps: a cryptographic generator seeded by the operating system once, because a system call per id is too dear.
    stamps: StdRng,
    /// The keys of the tag.
    keys: [u64; 2],
}

/// Slots that the 20 bits of an id can name.
pub(super) const SLOTS_MAX: u32 = 1 << 20;

const STAMP_MASK: u64 = (1 << 62) - 1;
const TAG_SHIFT: u32 = 64;
const TAG_MASK: u128 = 0xFFF << TAG_SHIFT;
const SLOT_SHIFT: u32 = 80;
const SHARD_SHIFT: u32 = 100;
const INSTANCE_SHIFT: u32 = 108;
/// The bits that RFC 9562 fixes, and their values for version 8.
const FIXED_MASK: u128 = (0xF << 76) | (0b11 << 62);
const FIXED: u128 = (8 << 76) | (0b10 << 62);

impl ShardAddress {
    /// How many instances the 20 bits can tell apart.
    pub const INSTANCES: u32 = 1 << 20;
}

impl CorrelationId {
    /// Length of the text form.
    pub const TEXT_LEN: usize = 36;

    /// Reads 36 characters of text (either case) or 16 raw bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, MalformedId> {
        let bits = match bytes.len() {
            16 => Uuid::from_slice(bytes),
            // Of the text forms that the library reads, only the hyphenated one has this length.
            Self::TEXT_LEN => Uuid::try_parse_ascii(bytes),
            _ => return Err(MalformedId),
        }
        .map_err(|_| MalformedId)?
        .as_u128();
        if bits & FIXED_MASK == FIXED { Ok(Self(bits)) } else { Err(MalformedId) }
    }

    /// The text form, without allocating.
    #[must_use]
    pub fn encode(self) -> [u8; Self::TEXT_LEN] {
        let mut text = [0; Self::TEXT_LEN];
        Uuid::from_u128(self.0).hyphenated().encode_lower(&mut text);
        text
    }

    /// The 16 bytes in network order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The instance and shard that made it.
    #[must_use]
    pub const fn address(self) -> ShardAddress {
        ShardAddress { instance: (self.0 >> INSTANCE_SHIFT) as u32, shard: ((self.0 >> SHARD_SHIFT) & 0xFF) as u8 }
    }

    /// The slot in the shard's table.
    #[must_use]
    pub const fn slot(self) -> u32 {
        ((self.0 >> SLOT_SHIFT) & 0xF_FFFF) as u32
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Uuid::from_u128(self.0).hyphenated(), f)
    }
}

impl fmt::Debug for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Minter {
    /// # Panics
    /// When the instance does not fit in 20 bits, or the operating system has no random bytes to give.
    pub(super) fn new(address: ShardAddress) -> Self {
        assert!(address.instance < ShardAddress::INSTANCES, "the instance has 20 bits");
        let mut stamps = StdRng::from_os_rng();
        let keys = [stamps.next_u64(), stamps.next_u64()];
        Self { address, stamps, keys }
    }

    /// A new id for `slot`.
    pub(super) fn mint(&mut self, slot: u32) -> CorrelationId {
        debug_assert!(slot < SLOTS_MAX, "the slot has 20 bits");
        let untagged = FIXED
            | u128::from(self.address.instance) << INSTANCE_SHIFT
            | u128::from(self.address.shard) << SHARD_SHIFT
            | u128::from(slot) << SLOT_SHIFT
            | u128::from(self.stamps.next_u64() & STAMP_MASK);
        CorrelationId(untagged | self.tag(untagged))
    }

    /// Whether this minter made `id` (or, once in 4,096 forgeries, might have).
    pub(super) fn made(&self, id: CorrelationId) -> bool {
        id.address() == self.address && id.0 & TAG_MASK == self.tag(id.0 & !TAG_MASK)
    }

    /// A folded multiplication, as in wyhash. Whoever sees many ids could work the keys out, and gain a place in
    /// another counter; std's `SipHash` would be safe from that and costs as much as the rest of an id.
    fn tag(&self, untagged: u128) -> u128 {
        let [key_high, key_low] = self.keys.map(u128::from);
        let product = (untagged >> 64 ^ key_high) * (untagged & u128::from(u64::MAX) ^ key_low);
        (product ^ product >> 64) << TAG_SHIFT & TAG_MASK
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use uuid::Variant;

    use super::*;

    fn id(instance: u32, shard: u8, slot: u32) -> CorrelationId {
        Minter::new(ShardAddress { instance, shard }).mint(slot)
    }

    proptest! {
        #[test]
        fn survives_both_forms_and_keeps_its_parts(
            instance in 0..ShardAddress::INSTANCES, shard: u8, slot in 0..SLOTS_MAX,
        ) {
            let id = id(instance, shard, slot);
            let text = id.encode();
            prop_assert_eq!(CorrelationId::parse(&text), Ok(id));
            prop_assert_eq!(CorrelationId::parse(&text.to_ascii_uppercase()), Ok(id));
            prop_assert_eq!(CorrelationId::parse(&id.to_bytes()), Ok(id));
            prop_assert_eq!(id.to_string(), std::str::from_utf8(&text).unwrap());
            prop_assert_eq!(id.address(), ShardAddress { instance, shard });
            prop_assert_eq!(id.slot(), slot);

            let uuid = Uuid::from_bytes(id.to_bytes());
            prop_assert_eq!(uuid.get_version_num(), 8);
            prop_assert_eq!(uuid.get_variant(), Variant::RFC4122);
            prop_assert_eq!(uuid.to_string(), id.to_string());
        }

        #[test]
        fn any_bytes_are_refused_or_read_as_themselves(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(id) = CorrelationId::parse(&bytes) {
                prop_assert_eq!(&bytes[..], &id.to_bytes());
            }
        }

        #[test]
        fn text_that_is_nearly_an_id_is_refused_or_read_as_itself(at in 0..CorrelationId::TEXT_LEN, byte: u8) {
            let mut text = id(1, 2, 3).encode();
            text[at] = byte;
            if let Ok(id) = CorrelationId::parse(&text) {
                prop_assert_eq!(&id.encode(), &text.to_ascii_lowercase()[..]);
            }
        }

        #[test]
        fn every_other_bit_is_under_the_tag(bit in 0..128_u32) {
            // One flipped bit passes once in 4,096; four in a row mean that the bit is not covered. A minter for each: with
            // some keys (one in about 2,000) one bit of the stamp is not, as what the others are is the same in each id.
            let passed = (0..4).filter(|_| {
                let mut minter = Minter::new(ShardAddress { instance: 7, shard: 1 });
                let id = minter.mint(9);
                minter.made(CorrelationId(id.0 ^ (1 << bit)))
            });
            prop_assert!(passed.count() < 4);
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let text = id(0xA_BCDE, 0xF0, 0x1_2345).to_string();
        assert!(text.starts_with("abcdef01-2345-8"), "{text}");
    }

    #[test]
    fn other_uuids_and_other_forms_are_malformed() {
        let simple = "0123456789ab8cdef0123456789abcde";
        let braced = "{01234567-89ab-8cde-90ab-0123456789ab}";
        let version_4 = "01234567-89ab-4cde-90ab-0123456789ab";
        let variant_0 = "01234567-89ab-8cde-70ab-0123456789ab";
        let variant_microsoft = "01234567-89ab-8cde-c0ab-0123456789ab";
        let misplaced = "0123456-789ab-8cde-90ab-0123456789ab";
        let no_hex = "0123456g-89ab-8cde-90ab-0123456789ab";
        for text in ["", simple, braced, version_4, variant_0, variant_microsoft, misplaced, no_hex] {
            assert_eq!(CorrelationId::parse(text.as_bytes()), Err(MalformedId), "{text}");
        }
        assert_eq!(CorrelationId::parse(&[0; 16]), Err(MalformedId));
    }

    #[test]
    fn ids_of_one_slot_differ_and_only_their_minter_knows_them() {
        let address = ShardAddress { instance: 1, shard: 2 };
        let (mut minter, other) = (Minter::new(address), Minter::new(address));
        let ids: HashSet<_> = (0..1_000).map(|_| minter.mint(3)).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| minter.made(*id)));
        // One in 4,096 is expected to pass by chance; 20 of 1,000 would need odds below 1e-25.
        assert!(ids.iter().filter(|id| other.made(**id)).count() < 20);
    }

    #[test]
    #[should_panic(expected = "20 bits")]
    fn an_instance_beyond_its_bits_is_a_bug() {
        Minter::new(ShardAddress { instance: ShardAddress::INSTANCES, shard: 0 });
    }
}

//! The body of a request: read under its own deadline before any permit is taken, checked without building a tree.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde::de::IgnoredAny;

use super::budget::{Arriving, ByteBudget};
use super::route::BodyKind;
use crate::config::HttpSettings;
use crate::error::Reject;

/// The task that an empty body stands for.
pub const DEFAULT_TASK: &[u8] = br#"{"action":"get_gift_code"}"#;

/// A whole body, and what it has of the budget as long as it is kept.
pub struct Kept<'a> {
    /// What the client sent, or the default task.
    pub bytes: Bytes,
    _budget: Arriving<'a>,
}

/// Reads the whole body, at most `MAX_BODY_BYTES`, within `BODY_TIMEOUT_MS`, and checks that it is what it should be.
pub async fn read<'a>(
    incoming: &mut Incoming,
    kind: BodyKind,
    limits: &HttpSettings,
    budget: &'a ByteBudget,
) -> Result<Kept<'a>, Reject> {
    let declared = incoming.size_hint().exact();
    if declared.is_some_and(|length| length > limits.body_bytes_max as u64) {
        return Err(Reject::BodyTooLarge(limits.body_bytes_max));
    }
    let mut collecting = pin!(collect(incoming, limits.body_bytes_max, budget));
    let at_once = poll_fn(|cx| Poll::Ready(collecting.as_mut().poll(cx))).await;
    let mut body = match at_once {
        Poll::Ready(body) => body?,
        // Boxed, since most bodies came with their head and need no timer.
        Poll::Pending => {
            let in_time = Box::pin(tokio::time::timeout(limits.body_timeout, collecting));
            in_time.await.map_err(|_| Reject::BodyTimeout)??
        }
    };
    if body.bytes.is_empty() {
        body.bytes = Bytes::from_static(DEFAULT_TASK);
    } else if kind == BodyKind::Json {
        check_json(&body.bytes, limits.json_depth_max)?;
    }
    Ok(body)
}

/// One JSON value in UTF-8, at most `depth_max` levels deep (RFC 8259).
pub fn check_json(body: &[u8], depth_max: usize) -> Result<(), Reject> {
    let text = std::str::from_utf8(body).map_err(|error| Reject::MalformedJson(error.to_string()))?;
    if may_be_deeper(body, depth_max) && depth(body) > depth_max {
        return Err(Reject::MalformedJson(format!("nested deeper than {depth_max} levels")));
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| Reject::MalformedJson(error.to_string()))?;
    Ok(())
}

async fn collect<'a>(incoming: &mut Incoming, bytes_max: usize, budget: &'a ByteBudget) -> Result<Kept<'a>, Reject> {
    let mut arriving = budget.arriving();
    let mut pieces = Pieces::None;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(|_| Reject::BrokenBody)?.into_data() else { continue };
        if pieces.len() + data.len() > bytes_max {
            return Err(Reject::BodyTooLarge(bytes_max));
        }
        let (length, is_first) = (data.len(), pieces.len() == 0);
        pieces = pieces.add(data);
        // A body in one piece is in the connection's read buffer, which has a bound of its own.
        if is_first && incoming.is_end_stream() {
            break;
        }
        if !arriving.add(length) {
            return Err(Reject::Overloaded);
        }
    }
    Ok(Kept { bytes: pieces.into_bytes(), _budget: arriving })
}

/// A body that came in one piece, as most do, is passed on as it is.
enum Pieces {
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Pieces {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn add(self, data: Bytes) -> Self {
        let mut all = match self {
            Self::None => return Self::One(data),
            Self::One(first) => BytesMut::from(&first[..]),
            Self::Many(all) => all,
        };
        all.extend_from_slice(&data);
        Self::Many(all)
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

/// Whether so many brackets are opened, inside strings too, that the nesting could be deeper than `depth_max`. Spares
/// nearly every body the walk of [`depth`].
fn may_be_deeper(json: &[u8], depth_max: usize) -> bool {
    memchr::memchr2_iter(b'[', b'{', json).nth(depth_max).is_some()
}

/// Deepest nesting of brackets outside strings. Only meaningful for valid JSON; of anything else it ends all the same.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn malformed(body: &[u8]) -> bool {
        matches!(check_json(body, 64), Err(Reject::MalformedJson(_)))
    }

    #[test]
    fn takes_any_json_value_and_nothing_else() {
        for good in ["{}", "[]", "1", "null", "\"a\\\"b\"", " {\"a\": [1, 2.5e3, true]} "] {
            assert_eq!(check_json(good.as_bytes(), 64), Ok(()), "{good}");
        }
        for bad in ["", " ", "{", "{}{}", "{a:1}", "[1,]", "nul", "\"", "01", "\u{feff}{}", "{\"a\":1}x"] {
            assert!(malformed(bad.as_bytes()), "{bad}");
        }
        assert!(malformed(b"\"\xff\""), "not UTF-8");
    }

    #[test]
    fn counts_depth_outside_strings_only() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(check_json(nested(64).as_bytes(), 64), Ok(()));
        assert!(malformed(nested(65).as_bytes()));
        assert!(malformed(nested(100_000).as_bytes()), "and does not overflow the stack");
        let brackets_in_a_string = format!("\"{}\"", "[".repeat(1000));
        assert_eq!(check_json(brackets_in_a_string.as_bytes(), 64), Ok(()));
    }

    proptest! {
        #[test]
        fn agrees_with_the_tree_builder(text in "\\PC{0,40}|[\\[\\]{}\",:0-9a-z\\\\ ]{0,40}") {
            let tree = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(check_json(text.as_bytes(), 64).is_ok(), tree.is_ok());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_json(&bytes, 4);
        }
    }
}

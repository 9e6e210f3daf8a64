//! The targets. A promise that is broken is a panic, which both libFuzzer and the driver report with the input.

mod head;
mod records;
mod settings;

use bytes::Bytes;
use thousandx::correlate::CorrelationId;
use thousandx::error::Reject;
use thousandx::http::body::check_json;
use thousandx::kafka::wire::envelope;

pub use self::head::head;
pub use self::records::{reply, task};
pub use self::settings::settings;

/// A target, and words that its inputs are made of.
pub struct Target {
    /// Also the name of its corpus.
    pub name: &'static str,
    /// What it does with the bytes.
    pub run: fn(&[u8]),
    /// Mutations insert them.
    pub words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "reply", run: reply, words: &records::REPLY_WORDS },
    Target { name: "task", run: task, words: &records::TASK_WORDS },
    Target { name: "id", run: id, words: &["-", "8", "01234567-89ab-8def-8123-456789abcdef", "{", "urn:uuid:"] },
    Target { name: "body", run: body, words: &JSON_WORDS },
    Target { name: "head", run: head, words: &head::WORDS },
    Target { name: "settings", run: settings, words: &settings::WORDS },
];

const JSON_WORDS: [&str; 16] = [
    "{", "}", "[", "]", "\"", ":", ",", "null", "true", "-1.5e3", "1e400", "\\u00e9", "\\ud800", "\\\\", "[[[[[[[[",
    "\u{feff}",
];

/// As the default of `MAX_JSON_DEPTH`.
const DEPTH_MAX: usize = 64;

/// The id under which everything here is sent.
const ID: &str = "01234567-89ab-8def-8123-456789abcdef";

/// A correlation id: what is read is what was written, in either form.
pub fn id(bytes: &[u8]) {
    let Ok(id) = CorrelationId::parse(bytes) else { return };
    let text = id.encode();
    if bytes.len() == 16 {
        assert_eq!(bytes, id.to_bytes());
    } else {
        assert_eq!(bytes.to_ascii_lowercase(), text);
    }
    assert_eq!(CorrelationId::parse(&text), Ok(id));
    assert_eq!(CorrelationId::parse(&id.to_bytes()), Ok(id));
    assert_eq!(id.to_string().as_bytes(), text);
}

/// A request's body: what passes is JSON to others too, and stays JSON with the id in it.
pub fn body(bytes: &[u8]) {
    let checked = check_json(bytes, DEPTH_MAX);
    let tree = serde_json::from_slice::<serde_json::Value>(bytes);
    match (&checked, &tree) {
        (Ok(()), Err(error)) => assert!(is_beyond_the_grammar(error), "passed, and a parser says: {error}"),
        (Err(refused), Ok(_)) => {
            let too_deep = matches!(refused, Reject::MalformedJson(why) if why.contains("deeper"));
            assert!(too_deep && opened(bytes) > DEPTH_MAX, "JSON was refused: {refused:?}");
        }
        _ => {}
    }
    let mut enveloped = Vec::new();
    let is_object = bytes.trim_ascii().first() == Some(&b'{');
    let id = CorrelationId::parse(ID.as_bytes()).expect("a sound id");
    let outcome = envelope(bytes, id, &mut enveloped);
    if checked.is_ok() {
        assert_eq!(outcome.is_ok(), is_object, "an object, and nothing else, takes a member");
        if is_object {
            assert_eq!(check_json(&enveloped, DEPTH_MAX), Ok(()), "{}", String::from_utf8_lossy(&enveloped));
            assert!(enveloped.ends_with(format!("\"correlation_id\":\"{ID}\"}}").as_bytes()));
        }
    }
}

/// RFC 8259 leaves numbers of any size and lone surrogates to the reader: its grammar allows them.
fn is_beyond_the_grammar(error: &serde_json::Error) -> bool {
    let why = error.to_string();
    ["number out of range", "surrogate", "unexpected end of hex escape"].iter().any(|known| why.contains(known))
}

/// Brackets that are opened; the nesting is no deeper.
fn opened(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count()
}

/// Names and values of headers, and what follows.
type Parts<'a> = (Vec<(&'a [u8], &'a [u8])>, &'a [u8]);

/// Lines of `name: value`, then after an empty line the payload: headers and body of any record or request, in a form
/// that can be read in a corpus.
fn fields_and_payload(bytes: &[u8]) -> Parts<'_> {
    let mut fields = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let colon = line.windows(2).position(|pair| pair == b": ");
        fields.push(colon.map_or((line, &b""[..]), |colon| (&line[..colon], &line[colon + 2..])));
    }
    (fields, rest)
}

/// Keeps copies.
struct Copied;

impl thousandx::kafka::wire::Keep for Copied {
    fn keep(&mut self, parts: &[&[u8]]) -> Bytes {
        parts.concat().into()
    }
}

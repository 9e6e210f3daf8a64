//! What a worker does with a task: the one trait that a Rust user replaces.

use serde_json::value::RawValue;

use crate::kafka::wire::Key;

/// A task, borrowed from its record.
#[derive(Debug)]
pub struct WorkerTask<'a> {
    /// The client's body. With `TASK_FORMAT=json` it has our `correlation_id` as its last member.
    pub body: &'a [u8],
    /// The body's type; `None`: JSON.
    pub content_type: Option<&'a [u8]>,
    /// The request's id; [`Key::write_text`] appends it as text.
    pub key: Key<'a>,
}

/// Where the answer is written: cleared before each task and reused, so that an answer costs no allocation.
#[derive(Debug)]
pub struct WorkerAnswer {
    /// What the client gets. JSON unless `content_type` says otherwise.
    pub body: Vec<u8>,
    /// 200 to 599.
    pub status: u16,
    /// `None`: JSON.
    pub content_type: Option<&'static str>,
}

impl WorkerAnswer {
    /// As for a new task.
    pub fn clear(&mut self) {
        self.body.clear();
        self.status = 200;
        self.content_type = None;
    }
}

impl Default for WorkerAnswer {
    fn default() -> Self {
        Self { body: Vec::new(), status: 200, content_type: None }
    }
}

/// The task failed; the client gets 502 with this code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the task failed: {code}")]
pub struct Failure {
    /// `[A-Za-z0-9._-]{1,64}`.
    pub code: std::borrow::Cow<'static, str>,
}

/// Handles tasks, on `WORKER_CONCURRENCY` threads at once. A task may come twice (at least once); a panic is a
/// [`Failure`] of that task.
pub trait Handler: Send + Sync + 'static {
    /// Writes the answer to `task` into `answer`.
    fn handle(&self, task: &WorkerTask<'_>, answer: &mut WorkerAnswer) -> Result<(), Failure>;
}

/// The example: `{"gift_code":"GIFT-XXXXXXXX","request_id":"…"}`. A member `nonce` or `n` of the task, string or
/// number, comes back in the answer, so that a client can check whose answer it got. Inside the template's envelope the
/// answer is the code alone, because the server adds the rest.
#[derive(Debug, Default, Clone, Copy)]
pub struct GiftCode;

#[derive(serde::Deserialize)]
struct Echo<'a> {
    #[serde(borrow)]
    nonce: Option<&'a RawValue>,
    #[serde(borrow)]
    n: Option<&'a RawValue>,
}

impl Handler for GiftCode {
    fn handle(&self, task: &WorkerTask<'_>, answer: &mut WorkerAnswer) -> Result<(), Failure> {
        let out = &mut answer.body;
        if let Key::Envelope(_) = task.key {
            out.push(b'"');
            write_code(out);
            out.push(b'"');
            return Ok(());
        }
        out.extend_from_slice(b"{\"gift_code\":\"");
        write_code(out);
        out.extend_from_slice(b"\",\"request_id\":\"");
        task.key.write_text(out);
        out.push(b'"');
        if let Ok(echo) = serde_json::from_slice::<Echo>(task.body) {
            for (name, value) in [(&b",\"nonce\":"[..], echo.nonce), (b",\"n\":", echo.n)] {
                if let Some(value) = value.map(RawValue::get).filter(|value| is_scalar(value)) {
                    out.extend_from_slice(name);
                    out.extend_from_slice(value.as_bytes());
                }
            }
        }
        out.push(b'}');
        Ok(())
    }
}

fn write_code(out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(b"GIFT-");
    let random = rand::random::<u32>();
    out.extend((0..8).map(|digit| DIGITS[(random >> (4 * digit) & 15) as usize]));
}

fn is_scalar(value: &str) -> bool {
    value.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str, key: Key<'_>) -> String {
        let mut answer = WorkerAnswer::default();
        GiftCode.handle(&WorkerTask { body: body.as_bytes(), content_type: None, key }, &mut answer).unwrap();
        String::from_utf8(answer.body).unwrap()
    }

    #[test]
    fn the_answer_says_whose_it_is() {
        for (body, echo) in [
            (r#"{"action":"get_gift_code"}"#, ""),
            (r#"{"nonce":"a\"b","x":[1]}"#, r#","nonce":"a\"b""#),
            (r#"{"n":-1.5}"#, r#","n":-1.5"#),
            (r#"{"n":{"deep":1}}"#, ""),
            ("garbage", ""),
        ] {
            let text = answer(body, Key::Header(b"some-id"));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["request_id"], "some-id");
            assert_eq!(value["gift_code"].as_str().unwrap().len(), 13);
            assert!(text.ends_with(&format!("\"some-id\"{echo}}}")), "{text}");
        }
    }

    #[test]
    fn in_an_envelope_it_is_the_code_alone() {
        let text = answer("{}", Key::Envelope("id"));
        assert!(text.starts_with("\"GIFT-") && text.len() == 15, "{text}");
    }
}

//! The request that is sent, and the check that an answer belongs to it.

/// Characters of a nonce: 64 bits in hexadecimal.
const NONCE_CHARS: usize = 16;

/// Numbers no other request of this run has: 24 random bits of the run, 8 of the thread, 32 that count.
#[derive(Debug)]
pub struct Nonces {
    next: u64,
}

impl Nonces {
    /// The nonces of one thread.
    #[must_use]
    pub fn new(run: u32, thread: u8) -> Self {
        Self { next: u64::from(run) << 40 | u64::from(thread) << 32 }
    }

    /// The next one.
    pub fn take(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// The bytes of a request, with a nonce that is replaced in place: nothing is formatted per request.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    nonce_at: usize,
}

impl Template {
    /// A `POST` of `{"action":"get_gift_code","nonce":"…"}` to `path`.
    #[must_use]
    pub fn new(authority: &str, path: &str) -> Self {
        let before = r#"{"action":"get_gift_code","nonce":""#;
        let after = r#""}"#;
        let body_bytes = before.len() + NONCE_CHARS + after.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
             Content-Length: {body_bytes}\r\n\r\n"
        );
        let nonce_at = head.len() + before.len();
        let bytes = [head.as_bytes(), before.as_bytes(), &[b'0'; NONCE_CHARS], after.as_bytes()].concat();
        Self { bytes, nonce_at }
    }

    /// The request with this nonce.
    pub fn with(&mut self, nonce: u64) -> &[u8] {
        self.bytes[self.nonce_at..self.nonce_at + NONCE_CHARS].copy_from_slice(&hex(nonce));
        &self.bytes
    }
}

/// Whether `body` has the nonce as a whole JSON string, wherever the worker put it.
#[must_use]
pub fn carries(body: &[u8], nonce: u64) -> bool {
    let mut quoted = [b'"'; NONCE_CHARS + 2];
    quoted[1..=NONCE_CHARS].copy_from_slice(&hex(nonce));
    body.windows(quoted.len()).any(|window| window == quoted)
}

fn hex(nonce: u64) -> [u8; NONCE_CHARS] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; NONCE_CHARS];
    for (pair, byte) in text.chunks_exact_mut(2).zip(nonce.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_nonce_and_the_length_it_says() {
        let mut template = Template::new("127.0.0.1:8000", "/queue");
        let text = String::from_utf8(template.with(0xabc).to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /queue HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(body, r#"{"action":"get_gift_code","nonce":"0000000000000abc"}"#);
    }

    #[test]
    fn only_the_whole_nonce_counts() {
        assert!(carries(br#"{"gift_code":"GIFT-1","nonce":"0000000000000abc"}"#, 0xabc));
        assert!(carries(br#"{"nonce": "0000000000000abc"}"#, 0xabc));
        assert!(!carries(br#"{"nonce":"0000000000000abd"}"#, 0xabc));
        assert!(!carries(br#"{"nonce":"00000000000000abc"}"#, 0xabc), "longer");
        assert!(!carries(b"null", 0xabc));
    }

    #[test]
    fn threads_and_runs_share_no_nonce() {
        let firsts = [(1, 0), (1, 1), (2, 0)].map(|(run, thread)| Nonces::new(run, thread).take());
        assert_eq!(firsts, [0x0100_0000_0001, 0x0101_0000_0001, 0x0200_0000_0001]);
    }
}

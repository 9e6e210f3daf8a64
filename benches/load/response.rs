//! One HTTP/1.1 answer, read from pieces as they come off the socket.
//!
//! Only what the server promises is understood: a status line, header fields, `Content-Length`. Chunked or
//! close-delimited bodies and unannounced bytes are errors, so that a change of framing cannot pass unseen.

use thiserror::Error;

/// Largest head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Largest body that is read, in bytes: replies of the sample worker are far below.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    /// The server will close the connection.
    pub close: bool,
    /// The body.
    pub body: &'a [u8],
}

/// The bytes are not an answer that this program accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Not `HTTP/1.1`, or no status code of three digits from 200.
    #[error("bad status line")]
    StatusLine,
    /// A header line without a colon.
    #[error("bad header field")]
    Field,
    /// Missing, repeated with another value, not a number, or above [`BODY_BYTES_MAX`].
    #[error("no usable Content-Length")]
    Length,
    /// `Transfer-Encoding` is not taken.
    #[error("transfer coding where a Content-Length was expected")]
    TransferCoding,
    /// No end of the head within [`HEAD_BYTES_MAX`].
    #[error("the head is too large")]
    HeadTooLarge,
    /// More bytes than the answer has, or bytes that no request asked for.
    #[error("bytes after the answer")]
    Surplus,
}

/// Keeps the pieces of an answer until it is whole. An answer that came in one piece is not copied.
#[derive(Debug, Default)]
pub struct Reader {
    partial: Vec<u8>,
}

impl Reader {
    /// Forgets everything: a new request begins.
    pub fn reset(&mut self) {
        self.partial.clear();
    }

    /// Takes the next bytes; gives the answer once it is whole.
    pub fn feed<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<Answer<'a>>, Malformed> {
        if self.partial.is_empty()
            && let Some(answer) = whole(bytes)?
        {
            return Ok(Some(answer));
        }
        self.partial.extend_from_slice(bytes);
        whole(&self.partial)
    }
}

/// What the head says.
struct Head {
    status: u16,
    close: bool,
    body_bytes: usize,
}

fn whole(bytes: &[u8]) -> Result<Option<Answer<'_>>, Malformed> {
    let Some(head_end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX { Err(Malformed::HeadTooLarge) } else { Ok(None) };
    };
    let head = head(&bytes[..head_end])?;
    let rest = &bytes[head_end + 4..];
    match rest.len().cmp(&head.body_bytes) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(Answer { status: head.status, close: head.close, body: rest })),
        std::cmp::Ordering::Greater => Err(Malformed::Surplus),
    }
}

/// Reads the head, without the blank line that ends it.
fn head(bytes: &[u8]) -> Result<Head, Malformed> {
    let line_end = memchr::memchr(b'\r', bytes).unwrap_or(bytes.len());
    let status = status(&bytes[..line_end])?;
    let (mut close, mut length) = (false, None);
    let mut rest = &bytes[line_end..];
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        let end = memchr::memchr(b'\r', after).unwrap_or(after.len());
        let (line, next) = after.split_at(end);
        let colon = memchr::memchr(b':', line).ok_or(Malformed::Field)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let given = number(value).ok_or(Malformed::Length)?;
            if length.is_some_and(|earlier| earlier != given) {
                return Err(Malformed::Length);
            }
            length = Some(given);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(Malformed::TransferCoding);
        } else if name.eq_ignore_ascii_case(b"connection") {
            close |= value.eq_ignore_ascii_case(b"close");
        }
        rest = next;
    }
    if !rest.is_empty() {
        return Err(Malformed::Field);
    }
    // RFC 9112, 6.3: these two never have a body.
    let body_bytes = if matches!(status, 204 | 304) { 0 } else { length.ok_or(Malformed::Length)? };
    Ok(Head { status, close, body_bytes })
}

fn status(line: &[u8]) -> Result<u16, Malformed> {
    let code = line.strip_prefix(b"HTTP/1.1 ").ok_or(Malformed::StatusLine)?;
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = code else {
        return Err(Malformed::StatusLine);
    };
    if !matches!(rest, [] | [b' ', ..]) {
        return Err(Malformed::StatusLine);
    }
    Ok(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// A decimal number of at most [`BODY_BYTES_MAX`]; digits only.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 7 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    (value <= BODY_BYTES_MAX).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 5\r\nx-request-id: 1\r\n\r\nhello";

    fn read(bytes: &[u8]) -> Result<Option<(u16, bool, Vec<u8>)>, Malformed> {
        let mut reader = Reader::default();
        let answer = reader.feed(bytes)?;
        Ok(answer.map(|answer| (answer.status, answer.close, answer.body.to_vec())))
    }

    #[test]
    fn reads_a_whole_answer() {
        assert_eq!(read(OK), Ok(Some((200, false, b"hello".to_vec()))));
        let closing = b"HTTP/1.1 503 Service Unavailable\r\nConnection: Close\r\ncontent-length:0\r\n\r\n";
        assert_eq!(read(closing), Ok(Some((503, true, Vec::new()))));
        assert_eq!(read(b"HTTP/1.1 204\r\n\r\n"), Ok(Some((204, false, Vec::new()))), "204 has no body");
    }

    #[test]
    fn reads_an_answer_split_at_any_byte() {
        for at in 0..OK.len() {
            let mut reader = Reader::default();
            assert_eq!(reader.feed(&OK[..at]), Ok(None), "split at {at}");
            let answer = reader.feed(&OK[at..]).unwrap().unwrap();
            assert_eq!((answer.status, answer.body), (200, &b"hello"[..]), "split at {at}");
        }
    }

    #[test]
    fn reads_an_answer_byte_by_byte_and_then_the_next() {
        let mut reader = Reader::default();
        for _ in 0..2 {
            reader.reset();
            let (last, first) = OK.split_last().unwrap();
            for byte in first {
                assert_eq!(reader.feed(std::slice::from_ref(byte)), Ok(None));
            }
            assert_eq!(reader.feed(std::slice::from_ref(last)).unwrap().unwrap().body, b"hello");
        }
    }

    #[test]
    fn refuses_other_framing() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(chunked), Err(Malformed::TransferCoding));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Malformed::Length), "close-delimited");
        let surplus = [OK, b"H"].concat();
        assert_eq!(read(&surplus), Err(Malformed::Surplus));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Err(Malformed::Field));
        assert_eq!(read(&vec![b'x'; HEAD_BYTES_MAX + 1]), Err(Malformed::HeadTooLarge));
    }

    #[test]
    fn refuses_bad_status_lines() {
        for line in ["HTTP/1.0 200 OK", "HTTP/1.1 100 Continue", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/2 200"] {
            let bytes = format!("{line}\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(read(bytes.as_bytes()), Err(Malformed::StatusLine), "{line}");
        }
    }

    #[test]
    fn refuses_bad_lengths() {
        for length in ["", "-1", "+5", "5x", "0x5", "1048577", "99999999999999999999"] {
            let bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nhello");
            assert_eq!(read(bytes.as_bytes()), Err(Malformed::Length), "{length:?}");
        }
        let twice = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 4\r\n\r\nhello";
        assert_eq!(read(twice), Err(Malformed::Length));
    }
}

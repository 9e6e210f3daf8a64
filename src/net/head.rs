//! A look at the head of a request as it passes by, for the one thing that hyper does not tell its service: that
//! `Content-Length` and `Transfer-Encoding` came together (RFC 9112, 6.3: a sign of request smuggling).

/// Longest header name of interest, `transfer-encoding`, and its colon.
const PREFIX_MAX: usize = 18;

/// Scans one head; bytes may come in any pieces.
#[derive(Debug, Clone, Default)]
pub struct HeadScan {
    /// Start of the line that is being read, at most as much as tells the two names apart.
    prefix: [u8; PREFIX_MAX],
    prefix_len: usize,
    lines: u32,
    content_length: bool,
    transfer_encoding: bool,
    complete: bool,
}

impl HeadScan {
    /// Looks at the next bytes from the socket; those after the end of the head are passed over.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !self.complete && !bytes.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return self.keep(bytes) };
            if self.prefix_len == 0 {
                self.line_ended(&bytes[..end]);
            } else {
                self.keep(&bytes[..end]);
                let (prefix, len) = (self.prefix, std::mem::take(&mut self.prefix_len));
                self.line_ended(&prefix[..len]);
            }
            bytes = &bytes[end + 1..];
        }
    }

    /// Both `Content-Length` and `Transfer-Encoding` were in the head.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.content_length && self.transfer_encoding
    }

    /// The request line has not ended yet: what is too long is the request target.
    #[must_use]
    pub fn is_in_request_line(&self) -> bool {
        self.lines == 0
    }

    /// Remembers the start of a line whose end has not come yet.
    fn keep(&mut self, piece: &[u8]) {
        let taken = piece.len().min(PREFIX_MAX - self.prefix_len);
        self.prefix[self.prefix_len..self.prefix_len + taken].copy_from_slice(&piece[..taken]);
        self.prefix_len += taken;
    }

    /// `line`: all of it, or as much as [`HeadScan::keep`] kept.
    fn line_ended(&mut self, line: &[u8]) {
        // An empty line before the request line is allowed (RFC 9112, 2.2); the one after the fields ends the head.
        let empty = line.is_empty() || line == b"\r";
        self.complete = empty && self.lines > 0;
        self.lines += u32::from(!empty);
        self.content_length |= is_field(line, b"content-length");
        self.transfer_encoding |= is_field(line, b"transfer-encoding");
    }
}

/// The colon is looked at first: few lines have it at that place.
fn is_field(line: &[u8], name: &[u8]) -> bool {
    line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[u8] =
        b"\r\nPOST /q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nCONTENT-LENGTH: 3\r\n\r\n0\r\n";

    #[test]
    fn sees_both_headers_in_any_pieces() {
        for size in 1..BOTH.len() {
            let mut scan = HeadScan::default();
            BOTH.chunks(size).for_each(|piece| scan.feed(piece));
            assert!(scan.is_ambiguous(), "pieces of {size}");
            assert!(!scan.is_in_request_line());
        }
    }

    #[test]
    fn does_not_mistake_a_body_or_a_longer_name() {
        let mut scan = HeadScan::default();
        scan.feed(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nx-content-length: 1\r\n\r\ncontent-length: 1\r\n");
        assert!(!scan.is_ambiguous());
    }

    #[test]
    fn knows_that_the_request_line_goes_on() {
        let mut scan = HeadScan::default();
        scan.feed(b"GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        assert!(scan.is_in_request_line());
        scan.feed(b" HTTP/1.1\r\nHost:");
        assert!(!scan.is_in_request_line());
    }
}

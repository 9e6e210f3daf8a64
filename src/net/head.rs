//! A look at the head of a request as it passes by, for the two things that hyper does not tell its service: that
//! `Content-Length` and `Transfer-Encoding` came together (RFC 9112, 6.3), and that a line ended in LF without CR
//! (RFC 9112, 2.2). Both are signs of request smuggling: what stands in front may have read them otherwise.

/// Longest header name of interest, `transfer-encoding`, and its colon.
const PREFIX_MAX: usize = 18;

/// Scans one head; bytes may come in any pieces.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that was seen, in any combination")]
#[derive(Debug, Clone, Default)]
pub struct HeadScan {
    /// Start of the line that is being read, at most as much as tells the two names apart.
    prefix: [u8; PREFIX_MAX],
    prefix_len: usize,
    /// The last byte that [`HeadScan::keep`] saw, kept or not.
    last: u8,
    lines: u32,
    content_length: bool,
    transfer_encoding: bool,
    bare_lf: bool,
    /// Nothing came before this head, so that it starts with its beginning.
    is_first: bool,
    /// The first line was empty. Allowed before a request line (RFC 9112, 2.2); or the end of a head whose beginning
    /// came with the request before it, and what follows is a body.
    starts_empty: bool,
    complete: bool,
}

impl HeadScan {
    /// For the first head of a connection.
    #[must_use]
    pub fn first() -> Self {
        Self { is_first: true, ..Self::default() }
    }

    /// Looks at the next bytes from the socket; those after the end of the head are passed over.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !self.complete && !bytes.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return self.keep(bytes) };
            if self.prefix_len == 0 {
                self.line_ended(&bytes[..end], end.checked_sub(1).map(|last| bytes[last]));
            } else {
                self.keep(&bytes[..end]);
                let (prefix, len) = (self.prefix, std::mem::take(&mut self.prefix_len));
                self.line_ended(&prefix[..len], Some(self.last));
            }
            bytes = &bytes[end + 1..];
        }
    }

    /// Both `Content-Length` and `Transfer-Encoding` were in the head.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.content_length && self.transfer_encoding
    }

    /// A line of the head ended in LF without CR. Not told of what starts with an empty line, which may be the end of a
    /// head, unless it is a connection's first.
    #[must_use]
    pub fn has_bare_lf(&self) -> bool {
        self.bare_lf && (self.is_first || !self.starts_empty)
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
        self.last = piece.last().copied().unwrap_or(self.last);
    }

    /// `line`: all of it, or as much as [`HeadScan::keep`] kept; `last`: its last byte in any case.
    fn line_ended(&mut self, line: &[u8], last: Option<u8>) {
        // An empty line before the request line is allowed (RFC 9112, 2.2); the one after the fields ends the head.
        let empty = line.is_empty() || line == b"\r";
        self.complete = empty && self.lines > 0;
        self.starts_empty |= empty && self.lines == 0;
        self.bare_lf |= last != Some(b'\r');
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
    fn sees_a_bare_line_feed_in_any_pieces() {
        let bare = [
            &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nx-longer-than-the-prefix: y\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        ];
        let sound = [
            BOTH,
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n{\n}\n",
            b"the rest of a head: x\r\n\r\n{\n}\n",
            b"\r\n{\n}\n",
            b"\n{\n}\n",
        ];
        for (heads, expected) in [(&bare[..], true), (&sound[..], false)] {
            for (head, size) in heads.iter().flat_map(|head| (1..=head.len()).map(move |size| (head, size))) {
                let mut scan = HeadScan::default();
                head.chunks(size).for_each(|piece| scan.feed(piece));
                assert_eq!(scan.has_bare_lf(), expected, "{:?} in pieces of {size}", String::from_utf8_lossy(head));
            }
        }
    }

    #[test]
    fn an_empty_line_before_the_first_head_hides_nothing() {
        for (head, expected) in
            [(&b"\r\nGET / HTTP/1.1\nHost: a\n\n"[..], true), (b"\nGET / HTTP/1.1\r\n", true), (BOTH, false)]
        {
            for size in 1..=head.len() {
                let mut scan = HeadScan::first();
                head.chunks(size).for_each(|piece| scan.feed(piece));
                assert_eq!(scan.has_bare_lf(), expected, "{:?} in pieces of {size}", String::from_utf8_lossy(head));
            }
        }
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

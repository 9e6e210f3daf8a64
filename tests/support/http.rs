//! HTTP/1.1 by hand: exactly these bytes out, exactly one response in. For what a well-behaved client cannot send, and
//! to see what the server really answers.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Header lines of one response that the reader takes.
const HEADERS_MAX: usize = 64;
/// One read from the socket.
const READ_BYTES: usize = 16 * 1024;
/// How much of an incomplete response goes into a failure message.
const SHOWN_BYTES: usize = 300;
/// Connecting on loopback.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Of [`Raw::connect_narrow`]: segments as of the 1980s and a receive buffer of a few of them.
const NARROW_SEGMENT_BYTES: u32 = 536;
const NARROW_BUFFER_BYTES: usize = 4096;

/// One response, its body complete and without its framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case and values, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no response.
pub enum NoResponse {
    /// Nothing complete within the time; what came so far.
    Timeout(Vec<u8>),
    /// The connection ended before a response was complete; what came so far.
    Closed(Vec<u8>),
    /// The bytes are not HTTP/1.1, and why.
    Malformed(String),
    /// The socket failed, e.g. with a reset.
    Io(io::Error),
}

/// Which request a response answers, as far as its framing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The response has no body, whatever its headers say (RFC 9110, 9.3.2).
    Head,
    /// Any other.
    Other,
}

/// A connection and the bytes read from it that belong to no response yet.
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl fmt::Debug for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned();
        match self {
            Self::Timeout(seen) => write!(f, "timeout after {} bytes: {:?}", seen.len(), shown(seen)),
            Self::Closed(seen) => write!(f, "closed after {} bytes: {:?}", seen.len(), shown(seen)),
            Self::Malformed(why) => write!(f, "malformed: {why}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl Response {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON. Fails the test when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in the body {:?}", self.text()))
    }

    /// The `code` of a problem document (RFC 9457), when this is one.
    pub fn code(&self) -> Option<String> {
        let problem = self.header("content-type")?.starts_with("application/problem+json");
        let document: serde_json::Value = serde_json::from_slice(&self.body).ok().filter(|_| problem)?;
        document.get("code")?.as_str().map(str::to_owned)
    }

    /// Whether the server ends the connection after this response.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Raw {
    /// Connects, with small writes sent at once.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// The same; an error when nobody listens there.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Connects so that the kernel holds little of what is not read: a sender's buffer grows with the segments that its
    /// peer takes, and on loopback those are so large that it takes megabytes.
    pub fn connect_narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.set_tcp_mss(NARROW_SEGMENT_BYTES).expect("a segment size can be set");
        socket.set_recv_buffer_size(NARROW_BUFFER_BYTES).expect("a buffer size can be set");
        socket
            .connect_timeout(&address.into(), CONNECT_LIMIT)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        Self { stream: socket.into(), buffer: Vec::new() }
    }

    /// Sends these bytes and nothing else.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes what is sent");
    }

    /// Sends these bytes; an error when the server has closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the response to a request that was not HEAD.
    pub fn response(&mut self, limit: Duration) -> Result<Response, NoResponse> {
        self.response_to(Method::Other, limit)
    }

    /// Reads exactly one response; what comes after it is kept for the next call.
    pub fn response_to(&mut self, method: Method, limit: Duration) -> Result<Response, NoResponse> {
        let deadline = Instant::now() + limit;
        let mut end = false;
        loop {
            match parse(&self.buffer, method, end).map_err(NoResponse::Malformed)? {
                Some((response, used)) => {
                    self.buffer.drain(..used);
                    return Ok(response);
                }
                None if end => return Err(NoResponse::Closed(std::mem::take(&mut self.buffer))),
                None => end = self.fill(deadline)? == 0,
            }
        }
    }

    /// Whether the server ends the connection, by FIN or reset, within `limit` and without another byte.
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        let seen = self.fill(Instant::now() + limit);
        self.buffer.is_empty() && matches!(seen, Ok(0) | Err(NoResponse::Io(_)))
    }

    /// FIN: no more bytes from here; the answer can still be read.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("a connected socket can be shut down");
    }

    /// RST: the connection is gone at once, for both sides.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("linger can be set");
    }

    /// What came behind the last response; with strict request and response it is empty.
    pub fn leftover(&self) -> &[u8] {
        &self.buffer
    }

    /// The socket itself, for buffer sizes and the like.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads once; 0 at the end of the stream.
    fn fill(&mut self, deadline: Instant) -> Result<usize, NoResponse> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoResponse::Timeout(self.buffer.clone()));
        }
        self.stream.set_read_timeout(Some(left)).expect("a read timeout above zero can be set");
        let mut chunk = [0; READ_BYTES];
        match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(count)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(NoResponse::Timeout(self.buffer.clone()))
            }
            Err(error) => Err(NoResponse::Io(error)),
        }
    }
}

/// A keep-alive `POST /queue` with this body.
pub fn post_queue(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /queue HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One request without a body on a connection of its own.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Response, NoResponse> {
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(NoResponse::Io)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(NoResponse::Io)?;
    Raw { stream, buffer: Vec::new() }.response(limit)
}

/// One `POST /queue` on a connection of its own.
pub fn post(address: SocketAddr, body: &str, limit: Duration) -> Result<Response, NoResponse> {
    let mut connection = Raw::connect(address);
    connection.send(&post_queue(body));
    connection.response(limit)
}

/// Reads one response from the front of `input`: the response and how many bytes it took, or `None` when more bytes are
/// needed. `end` says that no more will come, which completes a body without a declared length (RFC 9112, 6.3).
pub fn parse(input: &[u8], method: Method, end: bool) -> Result<Option<(Response, usize)>, String> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(start) = head.parse(input).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let status = head.code.ok_or("no status code")?;
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|line| (line.name.to_ascii_lowercase(), String::from_utf8_lossy(line.value).into_owned()))
        .collect();
    let body = read_body(&input[start..], method, status, &headers, end)?;
    Ok(body.map(|(body, used)| (Response { status, headers, body }, start + used)))
}

fn read_body(
    input: &[u8],
    method: Method,
    status: u16,
    headers: &[(String, String)],
    end: bool,
) -> Result<Option<(Vec<u8>, usize)>, String> {
    if method == Method::Head || status < 200 || status == 204 || status == 304 {
        return Ok(Some((Vec::new(), 0)));
    }
    match (header(headers, "transfer-encoding"), header(headers, "content-length")) {
        (Some(_), Some(_)) => Err("both transfer-encoding and content-length".into()),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => dechunk(input),
        (Some(coding), None) => Err(format!("unknown transfer coding {coding}")),
        (None, Some(length)) => {
            let length: usize = length.parse().map_err(|_| format!("content-length {length:?}"))?;
            Ok(input.get(..length).map(|body| (body.to_vec(), length)))
        }
        (None, None) => Ok(end.then(|| (input.to_vec(), input.len()))),
    }
}

/// A chunked body (RFC 9112, 7.1) without trailer fields.
fn dechunk(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let size = httparse::parse_chunk_size(&input[at..]).map_err(|_| "a chunk size that is none")?;
        let httparse::Status::Complete((line, size)) = size else { return Ok(None) };
        let size = usize::try_from(size).map_err(|_| "a chunk larger than memory")?;
        let data = at + line;
        let Some(ending) = data.checked_add(size).and_then(|stop| input.get(stop..stop + 2)) else { return Ok(None) };
        if ending != b"\r\n" {
            return Err("a chunk that does not end where it says".into());
        }
        body.extend_from_slice(&input[data..data + size]);
        at = data + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

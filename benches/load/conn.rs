//! One keep-alive connection: a non-blocking socket and at most one request on it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

use crate::response::Reader;

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// What the answer has to carry.
    pub nonce: u64,
    /// From when the latency counts.
    pub due: Instant,
    /// From when the timeout counts.
    pub sent: Instant,
}

/// What the connection is doing.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// No socket; the next attempt is due at this time.
    Down(Instant),
    /// The handshake began at this time.
    Connecting(Instant),
    /// Ready for a request.
    Idle,
    /// A request is under way.
    Waiting(Pending),
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The server closed or reset the connection.
    Closed,
}

/// A connection; its place in the thread's list is its name.
#[derive(Debug)]
pub struct Conn {
    /// What it is doing.
    pub state: State,
    /// The answer as far as it came.
    pub reader: Reader,
    socket: Option<Socket>,
    unsent: Vec<u8>,
}

impl Conn {
    /// A connection that is to be opened at once.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { state: State::Down(now), reader: Reader::default(), socket: None, unsent: Vec::new() }
    }

    /// Starts the handshake and gives the descriptor to watch.
    pub fn open(&mut self, server: SocketAddr, now: Instant) -> io::Result<BorrowedFd<'_>> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        self.state = State::Connecting(now);
        let socket: &Socket = self.socket.insert(socket);
        Ok(socket.as_fd())
    }

    /// Ends the handshake, well or not.
    pub fn opened(&mut self) -> io::Result<()> {
        if let Some(error) = self.socket.as_ref().map(Socket::take_error).transpose()?.flatten() {
            return Err(error);
        }
        self.state = State::Idle;
        Ok(())
    }

    /// Closes the socket; nothing of the old connection is left.
    pub fn close(&mut self, retry_at: Instant) {
        self.socket = None;
        self.reader.reset();
        self.unsent.clear();
        self.state = State::Down(retry_at);
    }

    /// Sends a request; what the socket does not take now follows with [`Conn::flush`].
    pub fn send(&mut self, request: &[u8], pending: Pending) -> io::Result<()> {
        self.reader.reset();
        self.state = State::Waiting(pending);
        let taken = write(self.socket.as_ref(), request)?;
        self.unsent.extend_from_slice(&request[taken..]);
        Ok(())
    }

    /// Sends the rest of a request.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let taken = write(self.socket.as_ref(), &self.unsent)?;
            self.unsent.drain(..taken);
        }
        Ok(())
    }

    /// Reads what is there.
    pub fn receive(&self, into: &mut [u8]) -> Received {
        let Some(socket) = &self.socket else { return Received::Closed };
        match recv(socket, into, RecvFlags::empty()) {
            Ok((0, _)) => Received::Closed,
            Ok((count, _)) => Received::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }
}

/// Writes as much as the socket takes now.
fn write(socket: Option<&Socket>, bytes: &[u8]) -> io::Result<usize> {
    let Some(socket) = socket else { return Err(io::ErrorKind::NotConnected.into()) };
    match send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(taken) => Ok(taken),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

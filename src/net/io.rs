//! The socket as hyper sees it: tokio's, watched as bytes pass by, with hyper's own bare error answers replaced.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::conn::ConnState;
use crate::error::Reject;
use crate::http::respond;

/// Bytes read from a socket in one call. One buffer per shard: it is only in use between two lines of `poll_read`.
pub(super) const SCRATCH_BYTES: usize = 64 * 1024;

/// A connection's socket. The stream is shared with the connection's task, which watches for a client that left.
pub(super) struct Io {
    pub(super) stream: Rc<RefCell<TcpStream>>,
    pub(super) state: Rc<ConnState>,
    pub(super) scratch: Rc<RefCell<Box<[u8]>>>,
    /// Our answer on its way out in place of hyper's, and how much of it is out.
    pub(super) substitute: Option<(Vec<u8>, usize)>,
}

impl hyper::rt::Read for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // hyper's cursor gives uninitialised memory, which only `unsafe` can fill in place; a copy of the few hundred
        // bytes of a request costs less than 10 ns.
        let scratch = &mut *self.scratch.borrow_mut();
        let len = buf.remaining().min(scratch.len());
        let mut read = ReadBuf::new(&mut scratch[..len]);
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut read);
        self.state.set_reading(polled.is_pending());
        ready!(polled)?;
        self.state.bytes_in(read.filled());
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.substitute.is_none()
            && let Some(reject) = self.refusal_by_hyper(buf)
        {
            self.state.refused_by_hyper();
            self.substitute = Some((respond::raw_problem(&reject), 0));
        }
        if self.substitute.is_some() {
            ready!(self.poll_substitute(cx))?;
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf);
        self.state.set_write_blocked(polled.is_pending());
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx))?;
        self.state.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}

impl Io {
    /// hyper answers what it cannot parse by itself, with a bare status and no body. While no request is being served,
    /// only such an answer can be on its way out.
    fn refusal_by_hyper(&self, buf: &[u8]) -> Option<Reject> {
        if self.state.is_serving() {
            return None;
        }
        // `HTTP/1.0` when that is what the request before this one was.
        let status = buf.strip_prefix(b"HTTP/1.")?.get(2..5)?;
        match status {
            b"431" if self.state.is_in_request_line() => Some(Reject::UriTooLong),
            b"431" => Some(Reject::HeadersTooLarge),
            b"414" => Some(Reject::UriTooLong),
            b"400" => Some(Reject::BadRequest("the request could not be parsed")),
            _ => None,
        }
    }

    fn poll_substitute(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((answer, sent)) = &mut self.substitute else { return Poll::Ready(Ok(())) };
        while *sent < answer.len() {
            let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &answer[*sent..]);
            self.state.set_write_blocked(polled.is_pending());
            *sent += ready!(polled)?;
        }
        self.substitute = None;
        Poll::Ready(Ok(()))
    }
}

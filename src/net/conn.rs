//! One connection: hyper's HTTP/1 on a watched socket, cut when the client is gone or a time limit is over.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::head::HeadScan;
use super::io::Io;
use super::sweep::Net;
use crate::http::{Framing, Gateway};

/// After an answer that closes: so long the rest of what the client sends is read and thrown away, because
/// closing a socket with unread bytes resets it, and a reset can overtake the answer (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
/// And at most so many bytes of it.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Connections that may have a second descriptor, for a client that has sent more than its request: fewer than
/// [`OTHER_DESCRIPTORS`](super::socket), which are for brokers and Redis too.
const WATCHED_MAX: usize = 256;

/// What a connection is doing, as far as time limits care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted, and not a byte so far.
    Fresh,
    /// Waiting for the end of a request's head.
    Head,
    /// A request is with the service.
    Serving,
    /// Its answer is being written.
    Answering,
    /// Between two requests.
    Idle,
}

/// The part of a connection that its socket, its task and the sweeper share. All on one thread.
#[derive(Debug)]
pub(super) struct ConnState {
    phase: Cell<Phase>,
    /// Tick at which the phase began.
    since: Cell<u32>,
    /// Tick at which the socket first took no more of the present answer.
    blocked_since: Cell<Option<u32>>,
    /// hyper waits for bytes, so it will see the end of the stream by itself.
    reading: Cell<bool>,
    head: RefCell<HeadScan>,
    /// The sweeper found a limit passed: the task ends the connection.
    cut: Cell<bool>,
    /// The server drains and this connection has nothing under way.
    closing: Cell<bool>,
    /// The connection ends while the client may still be sending.
    linger: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    net: Rc<Net>,
}

impl ConnState {
    fn new(net: Rc<Net>) -> Self {
        Self {
            phase: Cell::new(Phase::Fresh),
            since: Cell::new(net.tick()),
            blocked_since: Cell::new(None),
            reading: Cell::new(false),
            head: RefCell::new(HeadScan::first()),
            cut: Cell::new(false),
            closing: Cell::new(false),
            linger: Cell::new(false),
            waker: RefCell::new(None),
            net,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(super) fn since(&self) -> u32 {
        self.since.get()
    }

    pub(super) fn blocked_since(&self) -> Option<u32> {
        self.blocked_since.get()
    }

    /// Ends the connection at the task's next poll, and asks for it.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        self.wake();
    }

    /// Closes the connection if it still has nothing under way at the task's next poll.
    pub(super) fn close_if_idle(&self) {
        self.closing.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn set_reading(&self, waiting: bool) {
        self.reading.set(waiting);
    }

    pub(super) fn bytes_in(&self, bytes: &[u8]) {
        match self.phase.get() {
            // The time for the first head runs from the accept.
            Phase::Fresh => self.phase.set(Phase::Head),
            Phase::Idle => {
                self.enter(Phase::Head);
                *self.head.borrow_mut() = HeadScan::default();
            }
            Phase::Head | Phase::Serving | Phase::Answering => {}
        }
        if self.phase.get() == Phase::Head {
            self.head.borrow_mut().feed(bytes);
        }
    }

    pub(super) fn set_write_blocked(&self, blocked: bool) {
        if blocked && self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(self.net.tick()));
        }
    }

    /// hyper has handed everything to the kernel: if the answer was complete, the connection is idle.
    pub(super) fn flushed(&self) {
        self.blocked_since.set(None);
        if self.phase.get() == Phase::Answering {
            self.enter(Phase::Idle);
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.phase.get(), Phase::Serving | Phase::Answering)
    }

    pub(super) fn is_in_request_line(&self) -> bool {
        self.head.borrow().is_in_request_line()
    }

    pub(super) fn refused_by_hyper(&self) {
        self.net.metrics.framing_errors.inc();
        self.linger.set(true);
    }

    fn request_started(&self) -> Framing {
        let head = self.head.borrow();
        let framing = match self.phase.get() {
            Phase::Head if head.is_ambiguous() => Framing::Ambiguous,
            Phase::Head if head.has_bare_lf() => Framing::BareLf,
            // A pipelined request's head came with the one before it and was not scanned; hyper then does what
            // RFC 9112, 6.3 allows: Transfer-Encoding wins and the connection closes.
            _ => Framing::Clear,
        };
        drop(head);
        self.enter(Phase::Serving);
        framing
    }

    fn response_ready(&self, response: &mut Response<Full<Bytes>>) {
        self.enter(Phase::Answering);
        if self.net.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // The end is our decision: the client may have its next request on the way.
        self.linger.set(response.headers().contains_key(CONNECTION));
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.net.tick());
    }
}

/// Serves `stream` to its end. Dropping the future drops the request in it, which gives back its slot and permit.
pub(super) async fn serve(stream: TcpStream, net: Rc<Net>, gateway: Rc<Gateway>) {
    let state = Rc::new(ConnState::new(Rc::clone(&net)));
    let _registration = net.register(&state);
    let stream = Rc::new(RefCell::new(stream));
    let io = Io { stream: Rc::clone(&stream), state: Rc::clone(&state), scratch: net.scratch(), substitute: None };

    let service_state = Rc::clone(&state);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let framing = service_state.request_started();
        let (state, gateway) = (Rc::clone(&service_state), Rc::clone(&gateway));
        async move {
            // Lent, not given: a future has room for each argument that it is given, and hyper moves it as a whole.
            let mut response = gateway.respond(&mut request, framing).await;
            state.response_ready(&mut response);
            Ok::<_, Infallible>(response)
        }
    });

    {
        let mut connection = net.http1().serve_connection(io, service);
        let mut departure = Departure { stream: Rc::clone(&stream), watch: None };
        poll_fn(|cx| poll_connection(&mut connection, &state, &mut departure, cx)).await;
    }
    if state.linger.get() && !state.cut.get() {
        linger(&stream, &net.scratch()).await;
    }
}

/// Sends `answer` on a connection that is not served, and closes it so that the answer arrives.
pub(super) fn refuse(stream: TcpStream, net: &Rc<Net>, answer: &[u8]) {
    // A fresh socket takes so few bytes at once; if not, the close says it all the same.
    let _ = stream.try_write(answer);
    let Some(place) = net.take_refusal() else { return };
    let scratch = net.scratch();
    tokio::task::spawn_local(async move {
        let _place = place;
        let mut stream = stream;
        if stream.shutdown().await.is_ok() {
            linger(&RefCell::new(stream), &scratch).await;
        }
    });
}

/// Ready when the connection is over, whatever the reason: hyper's errors here are the client's doing or departure.
fn poll_connection<S>(
    connection: &mut http1::Connection<Io, S>,
    state: &ConnState,
    departure: &mut Departure,
    cx: &mut Context<'_>,
) -> Poll<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if state.cut.get() {
        return Poll::Ready(());
    }
    if Pin::new(&mut *connection).poll(cx).is_ready() {
        return Poll::Ready(());
    }
    // Only now: a request that came meanwhile has been read and is answered.
    if state.closing.replace(false) && matches!(state.phase(), Phase::Idle | Phase::Fresh) {
        return Poll::Ready(());
    }
    let mut waker = state.waker.borrow_mut();
    if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
    // hyper stops reading while it holds bytes that follow the request, and then does not see a client that leaves.
    if state.phase() == Phase::Serving && !state.reading.get() { departure.poll(cx) } else { Poll::Pending }
}

/// Connections of the process that have a second descriptor now.
static WATCHED: AtomicUsize = AtomicUsize::new(0);

/// Watches for the client's FIN or RST through a duplicate of the socket, whose readiness is its own.
struct Departure {
    stream: Rc<RefCell<TcpStream>>,
    watch: Option<Watch>,
}

/// The duplicate, and its place among [`WATCHED_MAX`].
struct Watch {
    stream: TcpStream,
    _place: Place,
}

struct Place;

impl Place {
    fn take() -> Option<Self> {
        let one_more = |taken| (taken < WATCHED_MAX).then_some(taken + 1);
        WATCHED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WATCHED.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Departure {
    /// Ready once the peer has closed its side. Without a descriptor to spare the deadline alone ends the request.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.watch.is_none() {
            self.watch = duplicate(&self.stream.borrow());
        }
        let Some(Watch { stream: watch, .. }) = &self.watch else { return Poll::Pending };
        while watch.poll_read_ready(cx).is_ready() {
            let mut ready = pin!(watch.ready(Interest::READABLE));
            match ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(ready)) if !ready.is_read_closed() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            // Only more bytes: forget them, so that the next event of the socket is noticed.
            let _ = watch.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Poll::Pending
    }
}

fn duplicate(stream: &TcpStream) -> Option<Watch> {
    let place = Place::take()?;
    let stream = TcpStream::from_std(stream.as_fd().try_clone_to_owned().ok()?.into()).ok()?;
    Some(Watch { stream, _place: place })
}

async fn linger(stream: &RefCell<TcpStream>, scratch: &RefCell<Box<[u8]>>) {
    let mut left = LINGER_BYTES_MAX;
    let discard = async {
        while left > 0 {
            let read = poll_fn(|cx| {
                let (mut stream, mut sink) = (stream.borrow_mut(), scratch.borrow_mut());
                let mut read = pin!(stream.read(&mut sink));
                read.as_mut().poll(cx)
            });
            match read.await {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, discard).await;
}

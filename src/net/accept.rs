//! The accept loop of a shard: a cap on connections, a pause when descriptors run out, an end that loses nobody.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::conn;
use super::sweep::Net;
use crate::admit::counter::Counter;
use crate::error::Reject;
use crate::http::{Gateway, respond};
use crate::observe::log::Throttle;

/// First and longest pause after an accept that failed for want of descriptors or memory; doubled in between.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Connections taken off the listener when it closes: the backlog that `net::socket` asks for.
const QUEUED_MAX: usize = 4096;

/// One warning about failed accepts per process and this time.
static WARNINGS: Throttle = Throttle::new(Duration::from_secs(10));

/// Connections of the whole process, against `MAX_CONNECTIONS`.
#[derive(Debug, Clone)]
pub struct ConnectionCap {
    open: Arc<Counter>,
}

impl ConnectionCap {
    /// A cap of `max` connections, none open.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { open: Arc::new(Counter::new(u32::try_from(max).unwrap_or(u32::MAX))) }
    }

    fn take(&self) -> Option<Taken> {
        self.open.acquire().then(|| Taken { open: Arc::clone(&self.open) })
    }
}

/// One connection under the cap; given back on drop.
struct Taken {
    open: Arc<Counter>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.open.release();
    }
}

/// Accepts and serves until `stop`; then takes what is still queued on the listener, which closing it would reset,
/// and returns. The connections live on as tasks of the runtime.
pub async fn accept(
    listener: TcpListener,
    net: Rc<Net>,
    gateway: Rc<Gateway>,
    cap: ConnectionCap,
    stop: CancellationToken,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = PAUSE_MIN;
                start(stream, &net, &gateway, &cap);
            }
            Err(error) if is_the_peers_doing(&error) => {}
            Err(error) => {
                net.metrics.accept_errors.inc();
                if let Some(suppressed) = WARNINGS.pass() {
                    tracing::warn!(%error, suppressed, "cannot accept connections, pausing");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    for stream in queued(listener) {
        start(stream, &net, &gateway, &cap);
    }
}

/// The connections that the kernel has completed and nobody has accepted; closes the listener.
fn queued(listener: TcpListener) -> Vec<TcpStream> {
    // Asked of the kernel itself: the runtime may not have seen the latest readiness yet.
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    std::iter::from_fn(|| listener.accept().ok())
        .filter_map(|(stream, _)| stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).ok())
        .take(QUEUED_MAX)
        .collect()
}

fn start(stream: TcpStream, net: &Rc<Net>, gateway: &Rc<Gateway>, cap: &ConnectionCap) {
    net.metrics.accepted.inc();
    let Some(taken) = cap.take() else {
        net.metrics.refused.inc();
        conn::refuse(stream, net, &respond::raw_problem(&Reject::Overloaded));
        return;
    };
    let (net, gateway) = (Rc::clone(net), Rc::clone(gateway));
    tokio::task::spawn_local(async move {
        let _taken = taken;
        conn::serve(stream, net, gateway).await;
    });
}

/// The connection was reset before it was accepted: nothing of ours is short.
fn is_the_peers_doing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_takes_no_place_and_a_closed_connection_gives_its_own_back() {
        let cap = ConnectionCap::new(2);
        let (one, two) = (cap.take(), cap.clone().take());
        assert!(one.is_some() && two.is_some(), "clones share the count");
        assert!(cap.take().is_none() && cap.take().is_none());
        drop(one);
        assert!(cap.take().is_some(), "what was refused left no trace");
    }
}

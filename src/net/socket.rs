//! Listening sockets: one per shard on the same address, the kernel spreads connections over them.

use std::net::{SocketAddr, TcpListener};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::StartError;

/// Connections that may wait for `accept`; the kernel caps it at `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;
/// Descriptors beside those of clients: brokers, Redis, listeners, runtimes, and a second one for clients that pipeline.
const OTHER_DESCRIPTORS: u64 = 512;

/// Binds `shards` listeners to `address` with `SO_REUSEPORT`. Port 0 is chosen by the kernel, once for all of them.
///
/// # Errors
/// [`StartError::Listen`], with the address, when it is taken or not ours.
pub fn listen(address: SocketAddr, shards: u8) -> Result<Vec<TcpListener>, StartError> {
    let first = bind(address)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(bind(address)?);
    }
    Ok(listeners)
}

/// Fails when any process listens on `address`: `SO_REUSEPORT` alone would silently share it.
pub fn ensure_free(address: SocketAddr) -> Result<(), StartError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    let bound = socket.set_reuse_address(true).and_then(|()| socket.bind(&address.into()));
    bound.and_then(|()| socket.listen(1)).map_err(|cause| StartError::Listen { address: address.to_string(), cause })
}

/// Raises the soft limit of file descriptors to what `connections` need, as far as the hard limit allows. Returns how
/// many connections fit: those beyond get 503, instead of taking the descriptors that Kafka and Redis need.
#[must_use]
pub fn fit_descriptors(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_DESCRIPTORS);
    let allowed = limit.maximum.map_or(wanted, |hard| hard.min(wanted));
    if limit.current.is_some_and(|soft| soft < allowed) {
        // Refused only where a sandbox forbids it; the warning below then says what is left.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum });
    }
    let in_force = getrlimit(Resource::Nofile).current;
    let Some(descriptors) = in_force.filter(|soft| *soft < wanted) else { return connections };
    let fitting = usize::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(connections).max(1);
    tracing::warn!(
        descriptors,
        connections = fitting,
        "fewer than MAX_CONNECTIONS fit the file descriptors (ulimit -n)"
    );
    fitting
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    open(address).map_err(|cause| StartError::Listen { address: address.to_string(), cause })
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it: one system call less per connection.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shards_listen_on_the_port_that_the_kernel_chose() {
        let listeners = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports, [ports[0]; 3]);
        assert!(ensure_free(listeners[0].local_addr().unwrap()).is_err(), "taken");
    }

    #[test]
    fn a_foreign_address_is_named_in_the_error() {
        let error = listen("192.0.2.1:80".parse().unwrap(), 1).unwrap_err();
        assert!(error.to_string().contains("192.0.2.1:80"), "{error}");
        assert_eq!(error.exit_code(), 69);
    }
}

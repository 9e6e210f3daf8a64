//! The paper limit: a bare hyper server that answers every POST with its own body.
//!
//! One current-thread runtime and one `SO_REUSEPORT` listener per core, the body collected as the real server has to,
//! no routing, no limits, no Kafka. `scripts/load.sh --peer` divides the server's CPU per request by this one's.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};

// The same allocator as the server, so that the difference is the server's own work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections that may wait for `accept`, per listener: more than the load generator opens at once.
const BACKLOG: i32 = 4096;

/// A bare hyper echo server, for comparison.
#[derive(Debug, Parser)]
#[command(name = "bare-hyper")]
struct Args {
    /// Address to listen on; port 0 lets the kernel choose.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Runtimes, one listener each; 0 means one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// `cargo bench` passes this to every bench; nothing to do then.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(address) = args.listen else {
        println!("bare-hyper: give --listen 127.0.0.1:0 to serve; scripts/load.sh --peer does");
        return Ok(());
    };
    let threads = match args.threads {
        0 => thread::available_parallelism().context("the number of cores")?.get(),
        given => given,
    };
    let first = listen(address).with_context(|| format!("cannot listen on {address}"))?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < threads {
        listeners.push(listen(address)?);
    }
    println!("listening on http://{address}");
    let shards: Vec<_> = listeners.into_iter().map(|listener| thread::spawn(move || serve(listener))).collect();
    for shard in shards {
        shard.join().map_err(|_| anyhow::anyhow!("a shard panicked"))??;
    }
    Ok(())
}

/// A non-blocking listener that shares its port with its siblings.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn serve(listener: TcpListener) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(async move {
                let connection = http1::Builder::new()
                    .header_read_timeout(None)
                    .writev(false)
                    .serve_connection(TokioIo::new(stream), service_fn(echo));
                // A client that leaves is no news here.
                let _ = connection.await;
            });
        }
    })
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    // A body that breaks off ends the connection.
    let body = request.into_body().collect().await?;
    Ok(Response::new(Full::new(body.to_bytes())))
}

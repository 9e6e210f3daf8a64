//! A wire between limiter and server that a test can cut in one direction: replies that get lost, requests that come
//! late. What neither SIGSTOP nor `CLIENT PAUSE` can do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const PASS: u8 = 0;
const LOSE_REPLIES: u8 = 1;
const HOLD_REQUESTS: u8 = 2;
const CLOSED: u8 = 3;

/// The wire. Its threads end with their sockets, which end with the test's limiter and server.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    mode: AtomicU8,
    /// Requests that were held back, with the connection to the server on which they belong.
    held: Mutex<Vec<(TcpStream, Vec<u8>)>>,
    /// Pieces of replies that the server sent, delivered or not.
    replies: AtomicU64,
}

impl Proxy {
    /// A wire to the server on `server_port`.
    pub fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.mode.load(Ordering::SeqCst) == CLOSED {
                    return;
                }
                connect(&shared, client.unwrap(), server_port);
            }
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Everything goes through again; what was held stays held.
    pub fn pass(&self) {
        self.state.mode.store(PASS, Ordering::SeqCst);
    }

    /// The server gets every request, the limiter no reply.
    pub fn lose_replies(&self) {
        self.state.mode.store(LOSE_REPLIES, Ordering::SeqCst);
    }

    /// The server gets no request until [`Proxy::deliver`], even if the limiter has given up by then.
    pub fn hold_requests(&self) {
        self.state.mode.store(HOLD_REQUESTS, Ordering::SeqCst);
    }

    /// Delivers the requests that were held. Returns how many pieces there were.
    pub fn deliver(&self) -> usize {
        let held = std::mem::take(&mut *self.state.held.lock().unwrap());
        let pieces = held.len();
        for (mut server, bytes) in held {
            server.write_all(&bytes).unwrap();
        }
        pieces
    }

    /// Pieces of replies that the server sent so far.
    pub fn replies(&self) -> u64 {
        self.state.replies.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.mode.store(CLOSED, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn connect(state: &Arc<State>, client: TcpStream, server_port: u16) {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).unwrap();
    let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (for_requests, for_replies) = (Arc::clone(state), Arc::clone(state));
    std::thread::spawn(move || carry_requests(&for_requests, client, server));
    std::thread::spawn(move || carry_replies(&for_replies, server_too, client_too));
}

fn carry_requests(state: &State, mut client: TcpStream, mut server: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    let mut holds = false;
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        if state.mode.load(Ordering::SeqCst) == HOLD_REQUESTS {
            state.held.lock().unwrap().push((server.try_clone().unwrap(), buffer[..n].to_vec()));
            holds = true;
        } else if server.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    if !holds {
        let _ = server.shutdown(Shutdown::Write);
    }
}

fn carry_replies(state: &State, mut server: TcpStream, mut client: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        state.replies.fetch_add(1, Ordering::SeqCst);
        if state.mode.load(Ordering::SeqCst) != LOSE_REPLIES {
            let _ = client.write_all(&buffer[..n]);
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

//! A broker that says that the cluster has no brokers, as one does that was just started or continued: the client forgets
//! all of them and has to be told again.

#![allow(clippy::unwrap_used, reason = "a test's helper fails by panic, like the test itself")]

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use thousandx::kafka::native::{Conf, Events, Producer};

/// As the watcher waits.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Of promise P9.
const BACK_WITHIN: Duration = Duration::from_secs(10);
const TOPIC: &str = "tasks";
const REPLICAS: i32 = 32;
/// The only request that a client of version 0.9 makes here.
const METADATA: u16 = 3;

struct Quiet;
impl Events for Quiet {}

/// Answers metadata requests, version 0 (<https://kafka.apache.org/protocol>): "there are no brokers" while `silent` is
/// above 0, each such answer taking one off; else itself, as leader of the one partition.
struct Broker {
    port: u16,
    silent: Arc<AtomicUsize>,
}

impl Broker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&silent);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, left) = (stream.unwrap(), Arc::clone(&left));
                thread::spawn(move || serve(stream, port, &left));
            }
        });
        Self { port, silent }
    }
}

/// Until the client closes.
fn serve(mut stream: TcpStream, port: u16, silent: &AtomicUsize) -> io::Result<()> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap()];
        stream.read_exact(&mut request)?;
        assert_eq!(u16::from_be_bytes([request[0], request[1]]), METADATA);
        let known = silent.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        let body = [&request[4..8], &metadata(known, port)].concat();
        stream.write_all(&[&u32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat())?;
    }
}

fn metadata(known: bool, port: u16) -> Vec<u8> {
    let int = |number: i32| number.to_be_bytes().to_vec();
    let short = |number: i16| number.to_be_bytes().to_vec();
    let text = |text: &str| [short(i16::try_from(text.len()).unwrap()), text.into()].concat();
    let brokers = if known { [int(1), int(1), text("127.0.0.1"), int(port.into())].concat() } else { int(0) };
    // More than can be true: librdkafka takes memory for what it reads by the size of the answer, and refuses a short one.
    let replicas = [int(REPLICAS), int(1).repeat(usize::try_from(REPLICAS).unwrap())].concat();
    // No error, partition 0, its leader, its replicas, none in sync.
    let partition = [short(0), int(0), int(if known { 1 } else { -1 }), replicas, int(0)].concat();
    [brokers, int(1), short(0), text(TOPIC), int(1), partition].concat()
}

#[test]
fn a_client_that_was_told_that_there_are_no_brokers_finds_them_again() {
    let broker = Broker::start();
    let mut conf = Conf::new();
    for (name, value) in [
        ("bootstrap.servers", &*format!("127.0.0.1:{}", broker.port)),
        ("api.version.request", "false"),
        ("broker.version.fallback", "0.9.0"),
    ] {
        conf.set(name, value).unwrap();
    }
    let producer = Producer::new(conf, Arc::new(Quiet)).unwrap();
    let _topic = producer.topic(TOPIC).unwrap();
    let has_leader = || producer.metadata(ANSWER_WAIT).map(|topics| topics[0].partitions == [(0, true)]);
    let found = || {
        let start = Instant::now();
        while !matches!(has_leader(), Ok(true)) {
            assert!(start.elapsed() < BACK_WITHIN, "no leader within {BACK_WITHIN:?}");
        }
    };
    for _ in 0..2 {
        found();
        broker.silent.store(1, Ordering::SeqCst);
        while broker.silent.load(Ordering::SeqCst) > 0 {
            assert!(has_leader().is_ok(), "it has been asked");
        }
    }
    found();
}

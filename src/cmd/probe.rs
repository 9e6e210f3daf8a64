//! `thousandx probe`: is a running server ready? For the health check of an image without a shell or curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::print;
use crate::config::Config;
use crate::error::StartError;

/// From the connect to the end of the answer. Health checks of orchestrators wait 1 to 3 s by default.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer that is read, in bytes: far more than `/readyz?verbose` has to say.
const ANSWER_BYTES_MAX: usize = 65_536;

/// What is asked when `--url` names no path.
const READY: &str = "/readyz?verbose";

/// Asks `url`, or `/readyz` of the configured address.
///
/// # Errors
/// [`StartError::Check`], with the server's own words, if the answer is not 200 or does not come in time.
pub fn run(config: &Config, url: Option<&str>) -> Result<(), StartError> {
    let target = match url {
        Some(url) => target_of(url)?,
        None => configured(config.http.listen),
    };
    let shown = format!("http://{}{}", target.host, target.path);
    let answer = ask(&target).map_err(|cause| StartError::Check(format!("{shown}: {cause}")))?;
    match parse(&answer) {
        Some((200, _)) => print("ready\n"),
        Some((status, body)) => Err(StartError::Check(format!("{shown} answered {status}\n{}", body.trim_end()))),
        None => Err(StartError::Check(format!("{shown}: the answer is not HTTP"))),
    }
}

struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

/// A wildcard address is where a server listens; to ask it, use loopback.
fn configured(listen: SocketAddr) -> Target {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, listen.port());
    Target { address, host: address.to_string(), path: READY.to_owned() }
}

fn target_of(url: &str) -> Result<Target, StartError> {
    let wrong =
        |cause: &str| StartError::Settings(format!("--url {url:?}: {cause}; expected http://host[:port][/path]"));
    let uri: http::Uri = url.parse().map_err(|_| wrong("not a URL"))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(wrong("no http:// or no host"));
    };
    let port = uri.port_u16().unwrap_or(80);
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let address = (name, port).to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let address = address.ok_or_else(|| StartError::Check(format!("{url}: the host is not known")))?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let path = if path == "/" { READY } else { path };
    Ok(Target { address, host: format!("{host}:{port}"), path: path.to_owned() })
}

fn ask(target: &Target) -> std::io::Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(timed_out()) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&target.address, TIMEOUT)?;
    stream.set_write_timeout(Some(left()?))?;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.path, target.host);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while answer.len() < ANSWER_BYTES_MAX {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err(timed_out()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn timed_out() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {} s", TIMEOUT.as_secs()))
}

/// Status and body of an answer whose connection was closed after it.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with `answer` and returns the request.
    fn serve_once(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (address, server)
    }

    fn probe(address: SocketAddr, url: Option<&str>) -> Result<(), StartError> {
        let target = url.map_or_else(|| Ok(configured(address)), target_of)?;
        let answer = ask(&target).map_err(StartError::System)?;
        match parse(&answer) {
            Some((200, _)) => Ok(()),
            other => Err(StartError::Check(format!("{other:?}"))),
        }
    }

    #[test]
    fn a_ready_server_is_asked_in_proper_http() {
        let (address, server) = serve_once("HTTP/1.1 200 OK\r\n\r\nok");
        probe(address, None).unwrap();
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /readyz?verbose HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
    }

    #[test]
    fn a_server_that_is_not_ready_is_quoted() {
        let (address, server) = serve_once("HTTP/1.1 503 Service Unavailable\r\n\r\nkafka: not ready");
        let error = probe(address, Some(&format!("http://localhost:{}/x?y", address.port()))).unwrap_err();
        assert!(error.to_string().contains("kafka: not ready"));
        assert!(server.join().unwrap().starts_with("GET /x?y HTTP/1.1\r\n"));
    }

    #[test]
    fn nobody_listens() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(probe(address, None).is_err());
    }

    #[test]
    fn wildcards_are_asked_on_loopback_and_urls_are_checked() {
        assert_eq!(configured("0.0.0.0:80".parse().unwrap()).host, "127.0.0.1:80");
        assert_eq!(configured("[::]:80".parse().unwrap()).host, "[::1]:80");
        assert_eq!(target_of("http://[::1]:81").unwrap().path, READY);
        for wrong in ["https://localhost", "localhost:80", "http://", "/readyz"] {
            assert_eq!(target_of(wrong).err().map(|error| error.exit_code()), Some(64), "{wrong}");
        }
    }
}

//! The real binary as a child: `thousandx serve` (or `dev`) and `thousandx work`, with settings as environment and
//! nothing else of this machine's environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use super::http::{self, NoResponse, Response};
use super::kafka::Kafka;
use super::process::{Process, command};
use super::{canary, free_port, loopback, metrics, scratch_dir, wait_until};

/// From the start of the process to a ready server, on a machine that is busy with other tests.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The port was free when it was chosen; somebody may take it before the server does.
const START_TRIES_MAX: u32 = 3;
/// One request to a health or metrics path.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// The same at the end of a test, which may leave the server in any state.
const LAST_LIMIT: Duration = Duration::from_secs(1);
/// The exit code of a server that cannot listen (`EX_UNAVAILABLE`), see `thousandx::error::StartError`.
const EXIT_UNAVAILABLE: i32 = 69;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Builder {
    command: &'static str,
    settings: BTreeMap<String, String>,
}

/// A running server; ends when dropped.
pub struct Server {
    process: Process,
    address: SocketAddr,
    _dir: TempDir,
}

/// A running `thousandx work`; ends when dropped.
pub struct Worker {
    process: Process,
    _dir: TempDir,
}

impl Server {
    /// A `serve` with two shards on a free port, and otherwise the defaults.
    pub fn builder() -> Builder {
        Builder { command: "serve", settings: BTreeMap::new() }.set("WORKERS", "2").set("LOG_FORMAT", "text")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// GET of a path on a connection of its own.
    pub fn get(&self, path: &str) -> Result<Response, NoResponse> {
        secret_free(path, http::get(self.address, path, PROBE_LIMIT))
    }

    /// `POST /queue` on a connection of its own.
    pub fn post(&self, body: &str, limit: Duration) -> Result<Response, NoResponse> {
        secret_free("an answer", http::post(self.address, body, limit))
    }

    /// Whether `/readyz` says 200 now.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until `/readyz` says 200 (or, with `false`, anything else). Fails the test after `limit`.
    pub fn wait_ready(&mut self, ready: bool, limit: Duration) {
        if wait_until(limit, || (self.is_ready() == ready).then_some(())).is_none() {
            let last = self.get("/readyz?verbose").map(|answer| answer.text());
            self.process.fail(&format!("is not at ready={ready} after {limit:?}; /readyz?verbose says {last:?}"));
        }
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        self.get("/metrics").unwrap_or_else(|error| self.process.fail(&format!("gives no metrics: {error:?}"))).text()
    }

    /// The sum of the series with this name and these labels, e.g. `thousandx_replies_total{result="late"}`; 0 when
    /// there is none yet.
    pub fn metric(&self, series: &str) -> f64 {
        metrics::value(&self.metrics(), series).unwrap_or(0.0)
    }

    /// Waits until a metric satisfies `condition`. Fails the test after `limit`.
    pub fn wait_metric(&self, series: &str, limit: Duration, condition: impl Fn(f64) -> bool) {
        if wait_until(limit, || condition(self.metric(series)).then_some(())).is_none() {
            let value = self.metric(series);
            self.process.fail(&format!("has {series} = {value} after {limit:?}"));
        }
    }

    /// SIGTERM: the drain begins.
    pub fn sigterm(&mut self) {
        self.process.sigterm();
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Waits for its end. Fails the test when it still runs after `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait_exit(limit)
    }

    /// The process, for other signals, its id and its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The most memory that it ever had, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.process.memory_peak()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

impl Builder {
    /// Another command than `serve`, e.g. `dev`.
    pub fn command(mut self, command: &'static str) -> Self {
        self.command = command;
        self
    }

    /// One setting, by its name in the environment.
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// The broker and the two topics, and a secret among the clients' properties.
    pub fn kafka(self, kafka: &Kafka, tasks: &str, results: &str) -> Self {
        self.set("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap())
            .set("TASKS_TOPIC", tasks)
            .set("RESULTS_TOPIC", results)
            .set("KAFKA_CONFIG", canary::kafka_config())
    }

    /// The limiter in Redis, under a key of its own.
    pub fn redis(self, url: &str, key: &str) -> Self {
        self.set("REDIS_URL", url).set("RATE_LIMIT_CAPACITY_SET", key)
    }

    /// The limiter in the process.
    pub fn local_limiter(self) -> Self {
        self.set("LIMITER", "local")
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Server {
        let mut server = self.start_unready();
        server.wait_ready(true, READY_LIMIT);
        server
    }

    /// Starts it and waits only until it answers `/livez`: for tests in which a dependency is missing.
    pub fn start_unready(self) -> Server {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut server = self.spawn();
            let seen = wait_until(READY_LIMIT, || match server.process.exited() {
                Some(status) => Some(Err(status)),
                None => server.get("/livez").ok().map(|_| Ok(())),
            });
            match seen {
                Some(Ok(())) => return server,
                Some(Err(status)) if status.code() == Some(EXIT_UNAVAILABLE) && tries < START_TRIES_MAX => {}
                Some(Err(status)) => server.process.fail(&format!("ended at its start with {status}")),
                None => server.process.fail("does not answer /livez"),
            }
        }
    }

    /// Starts it and waits for nothing: for commands that end by themselves. On a free port unless `PORT` is set.
    pub fn spawn(&self) -> Server {
        let mut settings = self.settings.clone();
        let port = settings.get("PORT").map_or_else(free_port, |port| port.parse().expect("a port"));
        settings.insert("HOST".into(), "127.0.0.1".into());
        settings.insert("PORT".into(), port.to_string());
        let (process, dir) = spawn_binary("the server", self.command, &settings);
        Server { process, address: loopback(port), _dir: dir }
    }
}

impl Worker {
    /// Starts the sample worker on these topics and waits until it has joined its group.
    pub fn start(kafka: &Kafka, tasks: &str, results: &str) -> Self {
        Self::start_with(kafka, tasks, results, &[])
    }

    /// The same with further settings.
    pub fn start_with(kafka: &Kafka, tasks: &str, results: &str, settings: &[(&str, &str)]) -> Self {
        let group = format!("group-of-{tasks}");
        let builder = Server::builder().kafka(kafka, tasks, results).set("WORKER_GROUP", &group);
        let builder = settings.iter().fold(builder, |builder, (name, value)| builder.set(name, *value));
        let (mut process, dir) = spawn_binary("the worker", "work", &builder.settings);
        let joined = wait_until(READY_LIMIT, || match process.exited() {
            Some(status) => Some(Err(status)),
            None => kafka.is_group_stable(&group).then_some(Ok(())),
        });
        match joined {
            Some(Ok(())) => Self { process, _dir: dir },
            Some(Err(status)) => process.fail(&format!("ended at its start with {status}")),
            None => process.fail("has not joined its group"),
        }
    }

    /// The process, for signals and its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Server {
    /// Whatever a test was about, it has not made the server tell a secret.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if self.process.exited().is_none() {
            for path in ["/metrics", "/readyz?verbose"] {
                let _ = secret_free(path, http::get(self.address, path, LAST_LIMIT));
            }
        }
        canary::assert_absent("the server's log", &self.process.log());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            canary::assert_absent("the worker's log", &self.process.log());
        }
    }
}

/// The answer as it is, unless there is a secret in it.
fn secret_free(what: &str, answer: Result<Response, NoResponse>) -> Result<Response, NoResponse> {
    if let Ok(answer) = &answer {
        canary::assert_absent(what, &answer.text());
        answer.headers.iter().for_each(|(name, value)| canary::assert_absent(name, value));
    }
    answer
}

/// In an empty directory, so that no `.env` is read, and with only the given environment.
fn spawn_binary(name: &'static str, subcommand: &str, settings: &BTreeMap<String, String>) -> (Process, TempDir) {
    let dir = scratch_dir(subcommand);
    let mut command = command(env!("CARGO_BIN_EXE_thousandx"));
    command.arg(subcommand).current_dir(dir.path()).env_clear().env("RUST_BACKTRACE", "1").envs(settings);
    // Only setpriv itself has to be found.
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let process = Process::spawn(name, command, dir.path().join("log"));
    (process, dir)
}

//! The cluster of a run: one Kafka, one Redis, three servers, two workers, and what is done to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::clients::{DEADLINE, Table};
use crate::plan::{Fault, SERVERS, Step, WORKERS};
use crate::record::{Recorder, now_ns};
use crate::support::kafka::Kafka;
use crate::support::process::{Process, command};
use crate::support::redis::RedisServer;
use crate::support::server::{Builder, Server};
use crate::support::wait_until;

/// Permits, less than the clients ask for.
pub const CAPACITY: usize = 20;
/// The key of the permits.
const SET: &str = "in_flight";
/// What a permit lives beyond its deadline.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// A permit that nobody gives back is gone after this.
pub const LEASE: Duration = Duration::from_secs(DEADLINE.as_secs() + LEASE_MARGIN.as_secs());
/// How long a drain may take: the deadline of the last request, and what a busy machine adds.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// From the start of a worker to its partitions.
const JOIN_MAX: Duration = Duration::from_secs(30);
/// After a fault of Kafka or of a worker, tasks may be done again until every member of the group has a new session.
const AGAIN: Duration = Duration::from_secs(20);
/// New connections go elsewhere for so long before a server that drains stops to take them.
const DRAIN_DELAY_MS: &str = "500";

/// Who is where.
pub struct Cluster {
    /// The broker of the run.
    pub kafka: Kafka,
    /// The Redis of the run.
    pub redis: RedisServer,
    /// By place.
    pub servers: Vec<Named<Server>>,
    /// What went wrong beside the history.
    pub problems: Vec<String>,
    workers: Vec<Named<Process>>,
    table: Arc<Table>,
    recorder: Arc<Recorder>,
    tasks: String,
    results: String,
    dir: PathBuf,
    started: usize,
}

/// Something with a name in the history, which it alone ever has.
pub struct Named<T> {
    /// E.g. `server-4`.
    pub name: String,
    /// What it is.
    pub it: T,
}

impl Cluster {
    /// Starts everything and waits until it is ready. Histories of workers and logs go to `dir`.
    pub fn start(dir: &Path, table: &Arc<Table>, recorder: &Arc<Recorder>) -> Self {
        let kafka = Kafka::start();
        let (tasks, results) = (kafka.topic("tasks", 6), kafka.topic("results", 3));
        let mut cluster = Self {
            kafka,
            redis: RedisServer::start(),
            servers: Vec::new(),
            problems: Vec::new(),
            workers: Vec::new(),
            table: Arc::clone(table),
            recorder: Arc::clone(recorder),
            tasks,
            results,
            dir: dir.to_owned(),
            started: 0,
        };
        for _ in 0..WORKERS {
            let worker = cluster.new_worker();
            cluster.workers.push(worker);
        }
        let joined = wait_until(JOIN_MAX, || cluster.kafka.is_group_stable("chaos").then_some(()));
        assert!(joined.is_some(), "the workers have not joined their group");
        for _ in 0..SERVERS {
            let server = cluster.new_server();
            cluster.servers.push(server);
        }
        cluster
    }

    /// Breaks something, waits, and undoes it.
    pub fn apply(&mut self, step: Step) {
        match step.fault {
            Fault::RedisKill => self.kill_redis(step.lasts),
            Fault::RedisStop => {
                self.fault("redis", "stop", step.lasts, |it| it.redis.sigstop(), |it| it.redis.sigcont());
            }
            Fault::RedisPause => {
                let line = format!("CLIENT PAUSE {} ALL", step.lasts.as_millis());
                self.fault("redis", "pause", step.lasts, |it| it.tell_redis(&line), |_| {});
            }
            Fault::RedisScriptFlush => {
                self.fault("redis", "script flush", step.lasts, |it| it.tell_redis("SCRIPT FLUSH"), |_| {});
            }
            Fault::RedisFlushAll => {
                let from = now_ns();
                self.fault("redis", "flushall", step.lasts, |it| it.tell_redis("FLUSHALL"), |_| {});
                self.excuse("P3", from, LEASE, "FLUSHALL took the permits: one lease");
            }
            Fault::KafkaStop => {
                let from = now_ns();
                self.fault("kafka", "stop", step.lasts, |it| it.kafka.sigstop(), |it| it.kafka.sigcont());
                self.excuse("P10", from, AGAIN, "Kafka was stopped: commits may be lost");
            }
            Fault::KafkaKill => {
                let from = now_ns();
                self.fault("kafka", "kill", step.lasts, |it| it.kafka.kill(), |it| it.kafka.restart());
                self.excuse("P10", from, AGAIN, "Kafka was killed: commits may be lost");
            }
            Fault::ServerTerm(place) => self.term_server(place, step.lasts),
            Fault::ServerKill(place) => self.kill_server(place, step.lasts),
            Fault::WorkerKill(place) => self.kill_worker(place, step.lasts),
            Fault::WorkerStop(place) => {
                let (from, name) = (now_ns(), self.workers[place].name.clone());
                let begin = |it: &mut Self| it.workers[place].it.sigstop();
                self.fault(&name, "stop", step.lasts, begin, |it| it.workers[place].it.sigcont());
                self.excuse("P10", from, AGAIN, &format!("{name} was stopped: its tasks may go to another"));
            }
        }
    }

    /// Permits in Redis whose lease is not over.
    pub fn permits(&self) -> u64 {
        let mut client = self.redis.client();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut client).expect("TIME");
        let now_ms = seconds * 1_000 + micros / 1_000;
        redis::cmd("ZCOUNT").arg(SET).arg(format!("({now_ms}")).arg("+inf").query(&mut client).expect("ZCOUNT")
    }

    /// Ends the workers and keeps the logs of the servers.
    pub fn end(mut self) {
        for worker in &mut self.workers {
            worker.it.kill9();
        }
        for server in &self.servers {
            self.keep_log(server);
        }
    }

    /// One fault, recorded: done, waited for, undone.
    fn fault(
        &mut self,
        who: &str,
        what: &str,
        lasts: Duration,
        begin: impl FnOnce(&mut Self),
        end: impl FnOnce(&mut Self),
    ) {
        self.recorder.record(now_ns(), who, "fault", json!({ "what": what }));
        begin(self);
        pause(lasts);
        end(self);
        self.recorder.note(who, "heal");
    }

    /// From a moment until so long after now.
    fn excuse(&self, promise: &str, from: u64, after: Duration, why: &str) {
        let now = now_ns();
        let to = now + u64::try_from(after.as_nanos()).expect("a short time");
        self.recorder.record(
            now,
            "driver",
            "excuse",
            json!({ "promise": promise, "from": from, "to": to, "why": why }),
        );
    }

    fn kill_redis(&mut self, lasts: Duration) {
        let from = now_ns();
        self.fault("redis", "kill", lasts, |it| it.redis.kill(), |it| it.redis.restart());
        self.excuse("P3", from, LEASE, "Redis was killed and came back empty: one lease");
    }

    fn term_server(&mut self, place: usize, lasts: Duration) {
        let name = self.servers[place].name.clone();
        self.table.remove(&name);
        let replace = |it: &mut Self| {
            let new = it.new_server();
            let mut old = std::mem::replace(&mut it.servers[place], new);
            let status = wait_until(DRAIN_MAX, || old.it.process().exited());
            if status.is_none_or(|status| !status.success()) {
                it.problems.push(format!("{} ended with {status:?} after SIGTERM; see its log", old.name));
            }
            it.keep_log(&old);
        };
        self.fault(&name, "term", lasts, |it| it.servers[place].it.sigterm(), replace);
    }

    fn kill_server(&mut self, place: usize, lasts: Duration) {
        let name = self.servers[place].name.clone();
        let kill = |it: &mut Self| {
            it.servers[place].it.kill9();
            it.table.remove(&it.servers[place].name);
        };
        let replace = |it: &mut Self| {
            let new = it.new_server();
            let old = std::mem::replace(&mut it.servers[place], new);
            it.keep_log(&old);
        };
        self.fault(&name, "kill", lasts, kill, replace);
    }

    fn kill_worker(&mut self, place: usize, lasts: Duration) {
        let (from, name) = (now_ns(), self.workers[place].name.clone());
        let replace = |it: &mut Self| it.workers[place] = it.new_worker();
        self.fault(&name, "kill", lasts, |it| it.workers[place].it.kill9(), replace);
        self.excuse("P10", from, AGAIN, &format!("{name} was killed: its tasks may be done again"));
    }

    fn tell_redis(&self, line: &str) {
        let mut command = redis::Cmd::new();
        for word in line.split(' ') {
            command.arg(word);
        }
        command.exec(&mut self.redis.client()).unwrap_or_else(|error| panic!("{line}: {error}"));
    }

    fn name(&mut self, kind: &str) -> String {
        self.started += 1;
        format!("{kind}-{}", self.started)
    }

    fn new_server(&mut self) -> Named<Server> {
        let name = self.name("server");
        let server = self.settings().start();
        self.table.add(&name, server.address());
        Named { name, it: server }
    }

    fn settings(&self) -> Builder {
        Server::builder()
            .kafka(&self.kafka, &self.tasks, &self.results)
            .redis(&self.redis.url(), SET)
            .set("RATE_LIMIT_CAPACITY", CAPACITY.to_string())
            .set("KAFKA_GIFT_CODE_TIMEOUT", DEADLINE.as_secs().to_string())
            .set("LEASE_MARGIN_MS", LEASE_MARGIN.as_millis().to_string())
            .set("DRAIN_DELAY_MS", DRAIN_DELAY_MS)
    }

    /// This program once more, as a worker.
    fn new_worker(&mut self) -> Named<Process> {
        let name = self.name("worker");
        let mut worker = command(std::env::current_exe().expect("this program has a path"));
        worker
            .args(["work", "--bootstrap", &self.kafka.bootstrap(), "--tasks", &self.tasks, "--group", "chaos"])
            .args(["--name", &name, "--history"])
            .arg(self.dir.join(format!("{name}.jsonl")));
        let it = Process::spawn("a recording worker", worker, self.dir.join(format!("{name}.log")));
        Named { name, it }
    }

    fn keep_log(&self, server: &Named<Server>) {
        let path = self.dir.join(format!("{}.log", server.name));
        std::fs::write(&path, server.it.log()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn pause(time: Duration) {
    std::thread::sleep(time); // workload: how long the fault lasts
}

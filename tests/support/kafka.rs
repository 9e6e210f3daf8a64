//! A real Apache Kafka broker: one `KRaft` node, from the same jars and settings as `scripts/stack.sh`.
//!
//! A start takes 2 to 3 s. Tests that leave the broker in peace use [`Kafka::shared`], one node per test binary, with
//! topics of their own; tests that kill or stop it use [`Kafka::start`], and those that want its leaders to move
//! [`Kafka::cluster`].

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;
use tempfile::TempDir;

use super::process::{Process, command, tail};
use super::toxiproxy::{Link, Toxiproxy};
use super::{cached, free_port, loopback, repository, scratch_dir, wait_until};

/// A start on a machine that is busy with a build. Idle, it takes 2 s.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Ports are free when they are chosen; somebody may take one before the broker does.
const START_TRIES_MAX: u32 = 3;
/// One request for metadata or for a change of topics.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Enough for the tests, small enough for several brokers on one machine.
const HEAP: &str = "-Xmx512m";

/// A broker of this test binary. Ends when dropped, and in any case with the binary.
pub struct Kafka {
    process: Process,
    /// `node.id`.
    node: i32,
    port: u16,
    controller_port: u16,
    home: PathBuf,
    dir: TempDir,
    /// Copies of each partition of the topics made here.
    replicas: i32,
}

impl Kafka {
    /// Starts a broker of one's own and waits until it serves.
    ///
    /// # Panics
    ///
    /// With how to get it, when the jars or Java cannot be had; with the end of its log, when it does not start.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts one that can also be reached by a link: who starts from the link's port stays on it.
    pub fn start_behind(proxy: &Toxiproxy) -> (Self, Link) {
        let inner = free_port();
        let link = proxy.link("kafka", inner);
        let further = format!(
            "listeners=PLAINTEXT://127.0.0.1:@PORT@,LINK://127.0.0.1:{inner},CONTROLLER://127.0.0.1:@CONTROLLER_PORT@\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:@PORT@,LINK://127.0.0.1:{}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,LINK:PLAINTEXT,CONTROLLER:PLAINTEXT\n",
            link.port()
        );
        (Self::start_with(&further), link)
    }

    /// Starts a cluster of so many brokers, the first of which is its only controller. Each partition of its topics has a
    /// copy on each, and a broker that is stopped in order hands over what it leads.
    pub fn cluster(brokers: i32) -> Vec<Self> {
        let shared = format!("offsets.topic.replication.factor={brokers}\ncontrolled.shutdown.enable=true\n");
        let mut cluster = vec![Self::start_with(&shared)];
        for node in 2..=brokers {
            let controller = cluster[0].controller_port;
            cluster.push(Self::start_node(
                node,
                &format!(
                    "{shared}process.roles=broker\nnode.id={node}\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
                     listeners=PLAINTEXT://127.0.0.1:@PORT@\n"
                ),
            ));
        }
        for broker in &mut cluster {
            broker.replicas = brokers;
        }
        cluster
    }

    /// With further properties, which may name the same placeholders.
    fn start_with(further: &str) -> Self {
        Self::start_node(1, further)
    }

    fn start_node(node: i32, further: &str) -> Self {
        let home = cached("scripts/lib/kafka.sh", &["fetch"]);
        let mut tries = 0;
        loop {
            tries += 1;
            let mut kafka = Self::spawn(home.clone(), node, further);
            match kafka.wait_ready() {
                Ok(()) => return kafka,
                Err(NotReady::PortTaken) if tries < START_TRIES_MAX => {}
                Err(reason) => kafka.fail(&reason),
            }
        }
    }

    /// The broker that all tests of this binary share, started by the first that asks.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// What goes into `KAFKA_BOOTSTRAP_SERVERS`.
    pub fn bootstrap(&self) -> String {
        loopback(self.port).to_string()
    }

    /// Client settings for this broker that notice its end and its return quickly.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("broker.address.family", "v4")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set("topic.metadata.refresh.fast.interval.ms", "50");
        config
    }

    /// Creates a topic whose name starts with `purpose` and is used by nobody else; returns the name.
    pub fn topic(&self, purpose: &str, partitions: i32) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{purpose}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.create_topic(&name, partitions);
        name
    }

    /// Creates a topic of this very name and waits until its partitions have a leader.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]);
    }

    /// The same with settings of the topic.
    pub fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        self.administer(|admin, options, runtime| {
            let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.replicas));
            let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
            let results = runtime.block_on(admin.create_topics([&topic], options)).expect("create topics");
            for result in results {
                assert!(result.is_ok(), "create {name}: {result:?}");
            }
        });
        self.wait_partitions(name, Some(partitions));
    }

    /// Adds partitions until there are `partitions`, and waits until they have a leader.
    pub fn grow_topic(&self, name: &str, partitions: i32) {
        let total = usize::try_from(partitions).expect("a positive number of partitions");
        self.administer(|admin, options, runtime| {
            let grown = NewPartitions::new(name, total);
            let results = runtime.block_on(admin.create_partitions([&grown], options)).expect("add partitions");
            for result in results {
                assert!(result.is_ok(), "grow {name}: {result:?}");
            }
        });
        self.wait_partitions(name, Some(partitions));
    }

    /// Deletes a topic and waits until the broker does not know it any more.
    pub fn delete_topic(&self, name: &str) {
        self.administer(|admin, options, runtime| {
            let results = runtime.block_on(admin.delete_topics(&[name], options)).expect("delete topics");
            for result in results {
                assert!(result.is_ok(), "delete {name}: {result:?}");
            }
        });
        self.wait_partitions(name, None);
    }

    /// How many records a partition has had.
    pub fn records(&self, topic: &str, partition: i32) -> i64 {
        let client: BaseConsumer = self.client().create().expect("a Kafka client");
        let (_, next) = client.fetch_watermarks(topic, partition, REQUEST_LIMIT).expect("the offsets of a partition");
        next
    }

    /// How many partitions of a topic another broker of this one's cluster leads.
    pub fn led_by(&self, other: &Self, topic: &str) -> usize {
        let client: BaseConsumer = self.client().create().expect("a Kafka client");
        let metadata = client.fetch_metadata(Some(topic), REQUEST_LIMIT).expect("the partitions of a topic");
        let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
        partitions.filter(|partition| partition.leader() == other.node).count()
    }

    /// Whether a consumer group has members and all of them have their partitions.
    pub fn is_group_stable(&self, group: &str) -> bool {
        let client: BaseConsumer = self.client().create().expect("a Kafka client");
        let groups = client.fetch_group_list(Some(group), REQUEST_LIMIT);
        groups.is_ok_and(|list| list.groups().iter().any(|found| found.name() == group && found.state() == "Stable"))
    }

    /// SIGKILL: the broker is gone without a goodbye. Its port and data stay for [`Kafka::restart`].
    pub fn kill(&mut self) {
        self.process.kill9();
    }

    /// SIGTERM, and waits for the clean end.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.sigterm();
        self.process.wait_exit(START_LIMIT)
    }

    /// Starts it again on the same port with the same data, and waits until it serves.
    pub fn restart(&mut self) {
        self.process.kill9();
        self.process = spawn_broker(&self.home, self.dir.path());
        if let Err(reason) = self.wait_ready() {
            self.fail(&reason);
        }
    }

    /// SIGSTOP: it accepts connections and answers nothing.
    pub fn sigstop(&mut self) {
        self.process.sigstop();
    }

    /// SIGCONT after [`Kafka::sigstop`].
    pub fn sigcont(&mut self) {
        self.process.sigcont();
    }

    /// The process id, for `/proc` and tools.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

// === impl: start and readiness

#[derive(Debug)]
enum NotReady {
    PortTaken,
    Exited(ExitStatus),
    TooLate,
}

impl Kafka {
    fn spawn(home: PathBuf, node: i32, further: &str) -> Self {
        let dir = scratch_dir("kafka");
        let data = dir.path().join("data");
        copy_formatted(&home.join("formatted"), &data, node);
        let (port, controller_port) = (free_port(), free_port());
        let properties = std::fs::read_to_string(repository("scripts/kafka/server.properties"))
            .map(|properties| format!("{properties}\n{further}"))
            .expect("scripts/kafka/server.properties can be read")
            .replace("@PORT@", &port.to_string())
            .replace("@CONTROLLER_PORT@", &controller_port.to_string())
            .replace("@DATA@", data.to_str().expect("a temporary path in UTF-8"));
        std::fs::write(dir.path().join("server.properties"), properties).expect("the properties can be written");
        let process = spawn_broker(&home, dir.path());
        Self { process, node, port, controller_port, home, dir, replicas: 1 }
    }

    /// Until the broker lists itself as alive, which it does once it is registered with its controller.
    fn wait_ready(&mut self) -> Result<(), NotReady> {
        let address = loopback(self.port);
        let mut client: Option<BaseConsumer> = None;
        wait_until(START_LIMIT, || {
            if let Some(status) = self.process.exited() {
                let log = tail(&self.dir.path().join("kafka.log")) + &self.process.log();
                let taken = log.contains("Address already in use");
                return Some(Err(if taken { NotReady::PortTaken } else { NotReady::Exited(status) }));
            }
            // A refused connection costs nothing; a client that meets one backs off.
            TcpStream::connect_timeout(&address, REQUEST_LIMIT).ok()?;
            let client = client.get_or_insert_with(|| self.client().create().expect("a Kafka client"));
            let metadata = client.fetch_metadata(None, Duration::from_secs(1)).ok()?;
            let is_listed = metadata.brokers().iter().any(|broker| broker.port() == i32::from(self.port));
            is_listed.then_some(Ok(()))
        })
        .unwrap_or(Err(NotReady::TooLate))
    }

    /// Waits until every partition of `name` has a leader, or, with `None`, until there is no such topic.
    fn wait_partitions(&self, name: &str, partitions: Option<i32>) {
        let client: BaseConsumer = self.client().create().expect("a Kafka client");
        let seen = |metadata: &Metadata| {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
            let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0).count();
            topic.error().is_none().then(|| i32::try_from(led).expect("few partitions"))
        };
        wait_until(REQUEST_LIMIT, || {
            let metadata = client.fetch_metadata(Some(name), REQUEST_LIMIT).ok()?;
            (seen(&metadata) == partitions).then_some(())
        })
        .unwrap_or_else(|| self.fail(&format!("topic {name} has not reached {partitions:?} partitions")));
    }

    /// On a thread of its own, because the caller may already be inside a runtime.
    fn administer(
        &self,
        work: impl FnOnce(&AdminClient<DefaultClientContext>, &AdminOptions, &tokio::runtime::Runtime) + Send,
    ) {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                let admin = self.client().create().expect("a Kafka admin client");
                let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT));
                work(&admin, &options, &runtime);
            });
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn fail(&self, reason: &impl std::fmt::Debug) -> ! {
        let log = tail(&self.dir.path().join("kafka.log"));
        self.process
            .fail(&format!("on port {}: {reason:?}; the end of kafka.log:\n{log}\nand of its output", self.port))
    }
}

fn spawn_broker(home: &Path, dir: &Path) -> Process {
    let mut java = command("java");
    java.arg(format!("@{}", repository("scripts/kafka/jvm-test.options").display()))
        .arg(HEAP)
        .arg(format!("-Dkafka.log.file={}", dir.join("kafka.log").display()))
        .arg(format!("-Dlog4j2.configurationFile={}", repository("scripts/kafka/log4j2.properties").display()))
        .arg("-cp")
        .arg(format!("{}/libs/*", home.display()))
        .arg("kafka.Kafka")
        .arg(dir.join("server.properties"));
    Process::spawn("Kafka", java, dir.join("kafka.out"))
}

/// The formatted log directory holds a few small files and no directory. It is that of node 1; the others differ in two
/// properties.
fn copy_formatted(from: &Path, to: &Path, node: i32) {
    const META: &str = "meta.properties";
    let copy = || -> std::io::Result<()> {
        std::fs::create_dir(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        if node != 1 {
            let meta = std::fs::read_to_string(to.join(META))?;
            let own = meta.lines().map(|line| match line.split_once('=') {
                Some(("node.id", _)) => format!("node.id={node}\n"),
                // 16 bytes in base64url; the first characters tell the nodes apart.
                Some(("directory.id", id)) => format!("directory.id={node:04}{}\n", &id[4..]),
                _ => format!("{line}\n"),
            });
            std::fs::write(to.join(META), own.collect::<String>())?;
        }
        Ok(())
    };
    copy().unwrap_or_else(|error| panic!("{} cannot be copied: {error}", from.display()));
}

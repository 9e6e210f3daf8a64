//! `thousandx dev`: everything in one process, for the first five minutes. The broker is librdkafka's mock cluster.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::serve;
use super::service::Service;
use crate::config::{Config, LimiterKind, ReplyRouting};
use crate::error::StartError;
use crate::kafka::embedded::EmbeddedBroker;
use crate::net::socket;
use crate::worker::handler::GiftCode;
use crate::worker::run::{self as worker, Membership};

/// Partitions of each topic of the embedded broker; it keeps at most 5 MiB of each.
const PARTITIONS: i32 = 4;

/// Runs the embedded stack until Ctrl-C.
pub fn run(mut config: Config) -> Result<(), StartError> {
    // SO_REUSEPORT would silently share the port with whatever listens there.
    socket::ensure_free(config.http.listen)?;
    forget_the_real_broker(&mut config);
    // Never dropped: clients end with the process, and would take a broker that ends before them for a fault.
    let broker = ManuallyDrop::new(EmbeddedBroker::start(
        &[&config.kafka.tasks_topic, &config.kafka.results_topic],
        PARTITIONS,
    )?);
    config.kafka.bootstrap = broker.bootstrap();
    let stop = Arc::new(AtomicBool::new(false));
    let worker = std::thread::Builder::new().name("worker".into()).spawn({
        let (config, stop) = (config.clone(), Arc::clone(&stop));
        move || work(&config, &stop)
    })?;
    let served = serve::serve(&config, |service| welcome(service, &config));
    stop.store(true, Ordering::Relaxed);
    let ended = worker.join().unwrap_or_else(|_| Err(StartError::Kafka("the worker panicked".into())));
    served.and(ended)
}

/// A `.env` that was written for `serve` must not make `dev` fail: what it says of a real broker does not fit ours.
fn forget_the_real_broker(config: &mut Config) {
    if !config.kafka.extra.is_empty() || config.kafka.routing != ReplyRouting::Shared {
        tracing::warn!("dev: KAFKA_CONFIG, REPLY_ROUTING and REPLY_PARTITIONS are for a real broker and are not used");
    }
    config.kafka.extra.clear();
    config.kafka.routing = ReplyRouting::Shared;
}

fn work(config: &Config, stop: &Arc<AtomicBool>) -> Result<(), StartError> {
    let (handler, counts) = (Arc::new(GiftCode), Arc::default());
    worker::run(&config.worker, &config.kafka, &handler, Membership::Assigned, stop, &counts)
}

/// What a newcomer needs to know, on standard output.
fn welcome(service: &Service, config: &Config) {
    let limiter = match config.limiter.kind {
        LimiterKind::Local => format!("in this process, {} permits", config.limiter.capacity),
        LimiterKind::Redis => format!("Redis, {} permits", config.limiter.capacity),
    };
    let text = format!(
        r#"
thousandx dev: the embedded stack, for trying things out. Nothing is kept, and its broker is not Kafka.

  server    http://{address}
  broker    embedded in this process (librdkafka's mock cluster)
  limiter   {limiter}
  worker    embedded sample: answers every task with a gift code

Try it:

  curl -X POST http://{address}/queue -d '{{"action":"get_gift_code","n":1}}'

Next, the real stack, from the folder of the project, in one of these ways:

  docker compose up --build                            # Kafka, Redis, server and worker in containers

  export KAFKA_BOOTSTRAP_SERVERS=… REDIS_URL=…         # your own; or: eval "$(scripts/stack.sh up)"
  target/release/thousandx topics && target/release/thousandx serve     # beside it: target/release/thousandx work

Settings are explained in .env.example and by `thousandx serve --help`; README.md has the rest. Ctrl-C ends this.
"#,
        address = service.address,
    );
    // A closed standard output is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

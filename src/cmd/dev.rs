//! `thousandx dev`: everything in one process, for the first five minutes. The broker is librdkafka's mock cluster.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::serve;
use super::service::Service;
use crate::config::{Config, LimiterKind};
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
    let broker = EmbeddedBroker::start(&[&config.kafka.tasks_topic, &config.kafka.results_topic], PARTITIONS)?;
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

Next, the real stack: start Kafka and Redis (`docker compose up --build` brings everything), then

  export KAFKA_BOOTSTRAP_SERVERS=localhost:9092 REDIS_URL=redis://localhost:6379
  thousandx topics && thousandx serve      # and, beside it: thousandx work

Settings are explained in .env.example and by `thousandx serve --help`; README.md has the rest. Ctrl-C ends this.
"#,
        address = service.address,
    );
    // A closed standard output is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

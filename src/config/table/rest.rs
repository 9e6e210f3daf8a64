//! The limiter, the sample worker, topics, the process as such.

use super::{
    CLIENTS, CLIENTS_AND_TOPICS, Kind, Part, SERVER, TOPICS as TOPICS_USERS, WORKER as WORKER_USERS, integer, ms,
    setting,
};

pub(super) static LIMITER: Part = Part {
    title: "In-flight limiter",
    settings: &[
        setting("LIMITER", SERVER, Kind::Choice(&["redis", "local"]))
            .default("redis")
            .dev("local")
            .help("redis: one limit for all instances together. local: each process counts for itself and needs no Redis."),
        setting("REDIS_URL", SERVER, Kind::RedisUrl)
            .secret()
            .help("Where the permits are kept. Needed with LIMITER=redis."),
        setting("RATE_LIMIT_CAPACITY", SERVER, integer(1, 1_000_000))
            .default("100")
            .unit("requests")
            .help("Requests in flight at once, cluster-wide; more get 429. What the workers can do at once, plus what may queue."),
        setting("RATE_LIMIT_CAPACITY_SET", SERVER, Kind::Name)
            .default("rate_limit_capacity_set")
            .unit("Redis key")
            .help("The sorted set of ids in flight. Instances that share it share the limit."),
        setting("RATE_LIMIT_RPS", SERVER, integer(0, 100_000_000))
            .default("0")
            .unit("requests per second")
            .help("A cap on the rate on top, cluster-wide; more get 429. After a pause one second's worth is taken at once. 0 is no cap."),
        setting("REFUSALS_PER_SECOND", SERVER, integer(0, 1_000_000))
            .default("500")
            .unit("refusals per second and shard")
            .help("Rate at which 429s leave without a wait while requests are answered; after a pause, a tenth of a second's worth at \
                 once. What comes faster queues, and each waits for its turn, half a second at most: clients that ask again at \
                 once do not take the CPU from the others. 0: none waits."),
        setting("REDIS_TIMEOUT_MS", SERVER, integer(1, 10_000))
            .default("250")
            .unit("ms")
            .help("Budget of one script call and of one connect; then 503. Well above the network's worst round trip, and at most half \
                 of the reply deadline."),
        setting("LEASE_MARGIN_MS", SERVER, ms(100))
            .default("5000")
            .unit("ms")
            .help("A permit lives for the reply deadline plus this without its holder: how long a crash keeps its permits."),
    ],
};

pub(super) static WORKER: Part = Part {
    title: "Sample worker",
    settings: &[
        setting("WORKER_CONCURRENCY", WORKER_USERS, integer(1, 255))
            .default("1")
            .unit("threads")
            .help("Threads of the sample worker, each a member of the group. No more than TASKS_PARTITIONS have work."),
        setting("WORKER_GROUP", WORKER_USERS, Kind::Name)
            .default("thousandx-workers")
            .unit("consumer group")
            .help("Workers of one group share the tasks."),
    ],
};

pub(super) static TOPICS: Part = Part {
    title: "Topics to create",
    settings: &[
        setting("TASKS_PARTITIONS", TOPICS_USERS, integer(1, 10_000))
            .default("8")
            .unit("partitions")
            .help("Partitions of TASKS_TOPIC: the most workers that can share the load."),
        setting("RESULTS_PARTITIONS", TOPICS_USERS, integer(1, 10_000))
            .default("8")
            .unit("partitions")
            .help("Partitions of RESULTS_TOPIC. With REPLY_ROUTING=partition at least one per instance."),
        setting("TOPIC_REPLICATION", TOPICS_USERS, integer(1, 100))
            .default("1")
            .unit("replicas")
            .help("Copies of each partition. 1 is for one broker; 3 where a broker may be lost."),
        setting("TOPIC_RETENTION_MS", TOPICS_USERS, integer(1, 31_536_000_000))
            .default("3600000")
            .unit("ms")
            .help("How long records are kept. Nobody waits longer than the reply deadline; an hour is for looking into a problem."),
    ],
};

pub(super) static PROCESS: Part = Part {
    title: "Process and logs",
    settings: &[
        setting("SCHED_POLICY", CLIENTS, Kind::Choice(&["batch", "inherit"]))
            .default("batch")
            .help("batch: threads that wake up wait for their turn where others run (SCHED_BATCH), so that batches are larger on busy \
                 cores. inherit: as the process was started, better beside busy programs that are not part of this. Niceness, and any policy but the usual one, are left alone."),
        setting("LOG_LEVEL", CLIENTS_AND_TOPICS, Kind::Filter)
            .default("info")
            .help("What is logged, to standard error. A part can be singled out: info,thousandx::kafka=debug."),
        setting("LOG_FORMAT", CLIENTS_AND_TOPICS, Kind::Choice(&["auto", "text", "json"]))
            .default("auto")
            .help("auto: text on a terminal, else JSON, one object a line."),
    ],
};

//! Settings: which layer counts, what is refused, and that secrets stay secret.
//!
//! Most tests load from maps, in the process. Those about messages and exit codes run the real binary with an empty
//! environment, in a directory of their own; it ends by itself, because its settings are wrong or it only prints.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail like the test itself")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::time::Duration;

use thousandx::config::table;
use thousandx::config::{self, Command, Config, DotEnv, Layers, LimiterKind, Loaded, ReplyRouting};

/// A password that must never be seen.
const CANARY: &str = "c4n4ry-pa55word";

/// What `serve` cannot do without.
const NEEDED: [(&str, &str); 2] = [("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092"), ("REDIS_URL", "redis://redis")];

/// A directory that is removed in the end, also when the test fails.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("settings-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads for `command` from an environment only.
fn load(command: Command, environment: &[(&str, &str)]) -> Loaded {
    load_layers(command, &[], environment, DotEnv::default())
}

fn load_layers(command: Command, flags: &[(&str, &str)], environment: &[(&str, &str)], dotenv: DotEnv) -> Loaded {
    config::load(command, &Layers { flags: map(flags), environment: &map(environment), dotenv })
}

fn serve(environment: &[(&str, &str)]) -> Loaded {
    load(Command::Serve, &[&NEEDED, environment].concat())
}

fn sound(loaded: Loaded) -> Config {
    loaded.into_config().expect("settings are sound")
}

fn keys(loaded: &Loaded) -> Vec<&str> {
    loaded.problems.iter().map(|problem| problem.key.as_str()).collect()
}

/// Value and source of one setting, as printed.
fn entry(loaded: &Loaded, name: &str) -> (String, String) {
    let entry = loaded.entries.iter().find(|entry| entry.setting.name == name).unwrap();
    (entry.shown(), entry.origin.to_string())
}

/// Runs the binary in `dir` with nothing but `environment`.
fn thousandx(dir: &Dir, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut process = Process::new(env!("CARGO_BIN_EXE_thousandx"));
    process.current_dir(&dir.0).env_clear().envs(environment.iter().copied()).args(args).output().unwrap()
}

/// Everything that was printed.
fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn flags_beat_the_environment_beats_dotenv_beats_the_default() {
    let dir = Dir::new("layers");
    let path = dir.write(".env", "PORT=3\nMAX_HEADERS=33\nMAX_JSON_DEPTH=34\n");
    let dotenv = DotEnv::read(&path, true);
    let environment = [&NEEDED[..], &[("PORT", "2"), ("MAX_HEADERS", "22"), ("MAX_JSON_DEPTH", "")]].concat();
    let loaded = load_layers(Command::Serve, &[("PORT", "1")], &environment, dotenv);
    let file = path.display().to_string();
    assert_eq!(entry(&loaded, "PORT"), ("1".into(), "flag --port".into()));
    assert_eq!(entry(&loaded, "MAX_HEADERS"), ("22".into(), "environment".into()));
    assert_eq!(entry(&loaded, "MAX_JSON_DEPTH"), ("34".into(), file), "an empty value counts as unset");
    assert_eq!(entry(&loaded, "MAX_URI_BYTES"), ("8192".into(), "default".into()));
    let config = sound(loaded);
    assert_eq!((config.http.listen.port(), config.http.headers_max, config.http.json_depth_max), (1, 22, 34));
}

#[test]
fn defaults_are_those_of_the_table_and_fit_together() {
    let config = sound(serve(&[]));
    assert_eq!(config.http.listen, "127.0.0.1:8000".parse().unwrap());
    assert!(config.http.admin.is_none() && config.http.shards >= 1 && config.http.opaque_types.is_empty());
    assert_eq!(config.limiter.kind, LimiterKind::Redis);
    assert_eq!(config.limiter.redis_url.expose(), "redis://redis");
    assert_eq!(config.limiter.lease, Duration::from_secs(15), "the reply deadline and the margin");
    assert_eq!(config.limiter.rate_per_s, None, "0 is no cap");
    assert_eq!(config.http.refusals_per_s, Some(500 * u32::from(config.http.shards)));
    assert_eq!(config.kafka.routing, ReplyRouting::Shared);
    assert_eq!(config.kafka.queue_messages_max, config.http.waiting_max);
    assert_eq!(config.kafka.body_bytes_max, config.http.body_bytes_max);
}

#[test]
fn values_become_what_the_parts_need() {
    let config = sound(serve(&[
        ("KAFKA_GIFT_CODE_TIMEOUT", "3.5"),
        ("WORKERS", "3"),
        ("ADMIN_ADDR", "[::1]:9000"),
        ("TASK_CONTENT_TYPES", "Application/XML, text/plain"),
        ("RATE_LIMIT_RPS", "7"),
        ("REFUSALS_PER_SECOND", "0"),
        ("REPLY_ROUTING", "partition"),
        ("REPLY_PARTITIONS", "4-5,0"),
        ("KAFKA_CONFIG", "client.id=a=b; sasl.username=u"),
    ]));
    assert_eq!(config.http.reply_timeout, Duration::from_millis(3500));
    assert_eq!((config.http.shards, config.http.admin), (3, Some("[::1]:9000".parse().unwrap())));
    assert_eq!(config.http.opaque_types, ["application/xml", "text/plain"]);
    assert_eq!((config.limiter.rate_per_s, config.http.refusals_per_s), (Some(7), None));
    assert_eq!(config.kafka.routing, ReplyRouting::Partitions(vec![0, 4, 5]));
    let extra: Vec<_> = config.kafka.extra.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(extra, [("client.id", "a=b"), ("sasl.username", "u")]);
}

#[test]
fn a_command_asks_only_for_what_it_uses() {
    assert_eq!(keys(&load(Command::Serve, &[])), ["REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS"]);
    assert_eq!(keys(&load(Command::Work, &[])), ["KAFKA_BOOTSTRAP_SERVERS"]);
    assert_eq!(keys(&load(Command::Topics, &[])), ["KAFKA_BOOTSTRAP_SERVERS"]);
    assert!(keys(&load(Command::Dev, &[])).is_empty());
    assert!(keys(&load(Command::Probe, &[("RATE_LIMIT_CAPACITY", "none"), ("LOG_LEVEL", "=")])).is_empty());
    assert!(keys(&load(Command::Serve, &[NEEDED[0], ("LIMITER", "local")])).is_empty(), "no Redis is needed");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let cases: [(&str, &[(&str, &str)]); 15] = [
        ("KAFKA_DELIVERY_TIMEOUT_MS", &[("KAFKA_GIFT_CODE_TIMEOUT", "3")]),
        ("REDIS_TIMEOUT_MS", &[("REDIS_TIMEOUT_MS", "2001"), ("KAFKA_GIFT_CODE_TIMEOUT", "4")]),
        ("ADMIN_ADDR", &[("ADMIN_ADDR", "127.0.0.1:8000")]),
        ("ADMIN_ADDR", &[("ADMIN_ADDR", "0.0.0.0:9000"), ("PORT", "9000")]),
        ("REPLY_PARTITIONS", &[("REPLY_ROUTING", "partition")]),
        ("RESULTS_TOPIC", &[("RESULTS_TOPIC", "tasks")]),
        ("MAX_URI_BYTES", &[("MAX_URI_BYTES", "16384")]),
        ("STATUS_HEADER", &[("STATUS_HEADER", "x-error"), ("ERROR_HEADER", "X-Error"), ("DEADLINE_HEADER", "x-error")]),
        ("CORRELATION_HEADER", &[("CORRELATION_HEADER", "x-request-id")]),
        ("STATUS_HEADER", &[("STATUS_HEADER", "Content-Type")]),
        ("DEADLINE_HEADER", &[("DEADLINE_HEADER", "tracestate")]),
        ("TASK_CONTENT_TYPES", &[("TASK_FORMAT", "json"), ("TASK_CONTENT_TYPES", "text/plain")]),
        ("MAX_BODY_BYTES", &[("KAFKA_CONFIG", "message.max.bytes=1048576")]),
        ("KAFKA_CONFIG", &[("KAFKA_CONFIG", "no.such.property=1")]),
        ("KAFKA_CONFIG", &[("KAFKA_CONFIG", "security.protocol=ssl")]),
    ];
    for (key, environment) in cases {
        let loaded = serve(environment);
        assert_eq!(keys(&loaded), [key], "{environment:?}: {:?}", loaded.problems);
    }
    assert!(keys(&serve(&[("ADMIN_ADDR", "127.0.0.1:0"), ("PORT", "0")])).is_empty(), "the kernel chooses two ports");
}

#[test]
fn every_wrong_key_is_named_at_once_with_value_source_and_expectation() {
    let dir = Dir::new("all");
    dir.write(".env", "WORKERS=256\nRATE_LIMIT_CAPACTIY=5\nRATE_LIMIT_CAPACITY=0\nUNRELATED=1\n");
    let environment = [("REDIS_URL", "redis:/:c4n4ry-pa55word@h"), ("LOG_LEVEL", "thousandx=loud"), ("PORT", "http")];
    let output = thousandx(&dir, &["serve", "--kafka-acks", "two", "--kafka-linger-ms=-1"], &environment);
    assert_eq!(output.status.code(), Some(64));
    let text = printed(&output);
    for line in [
        "9 settings are wrong for `thousandx serve`:",
        "RATE_LIMIT_CAPACTIY (.env): there is no such setting; did you mean RATE_LIMIT_CAPACITY?",
        "PORT = \"http\" (environment): expected a whole number from 0 to 65535",
        "WORKERS = \"256\" (.env): expected",
        "REDIS_URL = \"[redacted]\" (environment): expected redis://",
        "RATE_LIMIT_CAPACITY = \"0\" (.env): expected a whole number from 1",
        "KAFKA_BOOTSTRAP_SERVERS is not set; expected host:port",
        "KAFKA_ACKS = \"two\" (flag --kafka-acks): expected 0 or 1 or all",
        "KAFKA_LINGER_MS = \"-1\" (flag --kafka-linger-ms): expected",
        "LOG_LEVEL = \"thousandx=loud\" (environment): expected",
    ] {
        assert!(text.contains(line), "{line}\nis missing in:\n{text}");
    }
    assert!(!text.contains("UNRELATED") && !text.contains(CANARY), "{text}");

    let check = thousandx(&dir, &["config", "--check"], &environment);
    assert_eq!(check.status.code(), Some(64));
    assert!(printed(&check).contains("7 settings are wrong"), "{}", printed(&check));
}

#[test]
fn secrets_are_never_printed() {
    let dir = Dir::new("canary");
    let file = dir.write("secret", &format!("redis://user:{CANARY}@redis\n"));
    let broken = dir.write("broken.env", &format!("REDIS_URL='redis://:{CANARY}@h\nKAFKA_CONFIG {CANARY}\n"));
    let (url, short) = (format!("redis://user:{CANARY}@redis:6379/1"), format!("redis://:{CANARY}"));
    let properties = format!("sasl.password={CANARY};ssl.key.password={CANARY}");
    let wrong = format!("sasl.password={CANARY};no.such={CANARY};security.protocol={CANARY}");
    let environments: [&[(&str, &str)]; 6] = [
        &[("REDIS_URL", &url), ("KAFKA_CONFIG", &properties)],
        &[("REDIS_URL", CANARY), ("KAFKA_CONFIG", CANARY)],
        &[("REDIS_URL", &short), ("KAFKA_CONFIG", &wrong)],
        &[("REDIS_URL_FILE", file.to_str().unwrap())],
        &[("REDIS_URL", &url), ("REDIS_URL_FILE", file.to_str().unwrap())],
        &[("LIMITER", "redis"), ("RATE_LIMIT_CAPACITY", "x"), ("REDIS_URL", &url)],
    ];
    for environment in environments {
        for args in [&["serve"][..], &["config"], &["config", "--check"], &["config", "--env-file", "broken.env"]] {
            let text = printed(&thousandx(&dir, args, environment));
            assert!(!text.is_empty() && !text.contains(CANARY), "{args:?} {environment:?}:\n{text}");
        }
    }
    let flags = thousandx(&dir, &["serve", "--redis-url", CANARY, "--kafka-config", CANARY], &[]);
    assert!(!printed(&flags).contains(CANARY), "{}", printed(&flags));
    assert!(!keys(&load_layers(Command::Serve, &[], &[], DotEnv::read(&broken, true))).is_empty());
    let config = sound(serve(&[("REDIS_URL", &url), ("KAFKA_CONFIG", "sasl.password=c4n4ry-pa55word")]));
    assert!(!format!("{config:?}").contains(CANARY));
}

#[test]
fn a_secret_may_come_from_a_file() {
    let dir = Dir::new("file");
    let path = dir.write("url", "redis://from-file\n");
    let path = path.to_str().unwrap();
    let loaded = load(Command::Serve, &[NEEDED[0], ("REDIS_URL_FILE", path)]);
    assert_eq!(entry(&loaded, "REDIS_URL"), ("redis://from-file".into(), "environment".into()));
    assert_eq!(sound(loaded).limiter.redis_url.expose(), "redis://from-file");

    let flags = [("REDIS_URL_FILE", path)];
    let loaded = load_layers(Command::Serve, &flags, &NEEDED, DotEnv::default());
    assert_eq!(sound(loaded).limiter.redis_url.expose(), "redis://from-file", "a flag beats the environment");

    assert_eq!(keys(&serve(&[("REDIS_URL_FILE", path)])), ["REDIS_URL_FILE"], "both in one layer");
    let empty = dir.write("empty", "\n");
    for wrong in [empty.to_str().unwrap(), "/no/such/file", dir.0.to_str().unwrap()] {
        assert_eq!(keys(&load(Command::Serve, &[NEEDED[0], ("REDIS_URL_FILE", wrong)])), ["REDIS_URL_FILE"], "{wrong}");
    }
}

#[test]
fn the_env_file_may_be_missing_unless_it_was_asked_for() {
    let dir = Dir::new("missing");
    let check = |args: &[&str]| thousandx(&dir, &[&["config", "--check"], args].concat(), &NEEDED);
    assert_eq!(check(&[]).status.code(), Some(0));
    let missing = check(&["--env-file", "other.env"]);
    assert_eq!(missing.status.code(), Some(64));
    assert!(printed(&missing).contains("other.env cannot be read"), "{}", printed(&missing));
    dir.write("other.env", "PORT=1234\n");
    let listing = thousandx(&dir, &["config", "--env-file", "other.env"], &NEEDED);
    let text = printed(&listing);
    let line = text.lines().find(|line| line.starts_with("PORT ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["PORT", "=", "1234", "#", "other.env"]);
}

#[test]
fn dev_runs_from_a_dotenv_that_was_written_for_serve() {
    let dir = Dir::new("dev");
    let dotenv = || DotEnv::read(&dir.write(".env", "LIMITER=redis\nKAFKA_BOOTSTRAP_SERVERS=k:1\nCOMPOSE=1\n"), true);
    let loaded = load_layers(Command::Dev, &[], &[], dotenv());
    assert_eq!(entry(&loaded, "LIMITER"), ("local".into(), "dev preset".into()));
    assert_eq!(entry(&loaded, "KAFKA_FETCH_WAIT_MS"), ("1".into(), "dev preset".into()));
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    let config = sound(loaded);
    assert_eq!((config.limiter.kind, config.kafka.bootstrap.as_str()), (LimiterKind::Local, ""));
    assert!((config.kafka.linger_ms - 0.5).abs() < f64::EPSILON);

    let with_redis = load_layers(Command::Dev, &[], &[("REDIS_URL", "redis://h")], dotenv());
    assert_eq!(sound(with_redis).limiter.kind, LimiterKind::Redis, "asked for and possible");
    let by_flag = load_layers(Command::Dev, &[("LIMITER", "redis")], &[], dotenv());
    assert_eq!(keys(&by_flag), ["REDIS_URL"], "asked for by flag, and not possible");
    let url_only = load(Command::Dev, &[("REDIS_URL", "redis://h")]);
    assert_eq!(sound(url_only).limiter.kind, LimiterKind::Local, "not asked for");
}

#[test]
fn the_example_file_loads_and_changes_nothing() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example")).unwrap();
    let is_setting = |line: &&str| line.strip_prefix('#').is_some_and(|line| !line.starts_with(' '));
    let active: Vec<&str> = text.lines().filter(is_setting).map(|line| &line[1..]).collect();
    let dir = Dir::new("example");
    let dotenv = DotEnv::read(&dir.write(".env", &active.join("\n")), true);
    let loaded = load_layers(Command::Serve, &[], &NEEDED, dotenv);
    assert!(loaded.problems.is_empty() && loaded.warnings.is_empty(), "{:?}", loaded.problems);
    assert_eq!(loaded.entries.len(), table::all().count());
    let plain = serve(&[]);
    for entry in &loaded.entries {
        assert_eq!(entry.shown(), self::entry(&plain, entry.setting.name).0, "{}", entry.setting.name);
    }
}

#[test]
fn unknown_flags_and_wrong_usage_exit_with_64_and_help_with_0() {
    let dir = Dir::new("usage");
    for args in [&["serve", "--no-such-flag"][..], &["nonsense"], &["probe", "--kafka-acks", "1"], &["--prot", "1"]] {
        assert_eq!(thousandx(&dir, args, &[]).status.code(), Some(64), "{args:?}");
    }
    for args in [&["--help"][..], &["serve", "--help"], &["--version"], &["config"], &["config", "--markdown"]] {
        assert_eq!(thousandx(&dir, args, &[]).status.code(), Some(0), "{args:?}");
    }
}

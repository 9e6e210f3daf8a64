//! Settings: a `.env` file of any bytes, and secrets whose values cannot be understood.

use std::collections::BTreeMap;
use std::path::Path;

use thousandx::config::{self, Command, DotEnv, Layers, Loaded};

/// What settings files are made of.
pub(super) const WORDS: [&str; 20] = [
    "PORT=",
    "HOST=",
    "LIMITER=",
    "REDIS_URL=",
    "KAFKA_BOOTSTRAP_SERVERS=",
    "KAFKA_CONFIG=",
    "KAFKA_LINGER_MS=",
    "REPLY_PARTITIONS=",
    "REPLY_ROUTING=partition",
    "TASK_CONTENT_TYPES=",
    "LOG_LEVEL=",
    "ADMIN_ADDR=",
    "\n",
    "'",
    "\"",
    "$",
    "export ",
    "redis://",
    "0-9999999999",
    "1e308",
];
/// A password; it must not show anywhere.
const CANARY: &str = "canary4711";
const COMMANDS: [Command; 6] =
    [Command::Dev, Command::Serve, Command::Work, Command::Topics, Command::Probe, Command::Config];

/// The bytes as a `.env` file, and as a part of two secrets.
pub fn settings(bytes: &[u8]) {
    // A setting that names a file would have it read: a fuzzer could name a terminal or a pipe.
    if bytes.windows(5).any(|window| window == b"_FILE") {
        return;
    }
    let nothing = BTreeMap::new();
    for command in COMMANDS {
        let dotenv = DotEnv::from_reader(Path::new(".env"), bytes);
        let layers = Layers { flags: BTreeMap::new(), environment: &nothing, dotenv };
        let loaded = config::load(command, &layers);
        let text = shown(&loaded);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "control characters: {text:?}");
        assert_eq!(loaded.report().is_none(), loaded.problems.is_empty());
        assert_eq!(loaded.into_config().is_ok(), text.starts_with(SOUND), "{text}");
    }
    let part = String::from_utf8_lossy(bytes);
    let environment = BTreeMap::from([
        ("REDIS_URL".to_owned(), format!("redis://user:{part}{CANARY}@host/0")),
        ("KAFKA_CONFIG".to_owned(), format!("sasl.password={part}{CANARY}")),
    ]);
    let layers = Layers { flags: BTreeMap::new(), environment: &environment, dotenv: DotEnv::default() };
    let text = shown(&config::load(Command::Serve, &layers));
    assert!(!text.contains(CANARY), "a secret shows: {text:?}");
}

/// How a text of [`shown`] begins when nothing is wrong.
const SOUND: &str = "sound";

/// Everything that may be printed of the settings.
fn shown(loaded: &Loaded) -> String {
    let values: Vec<_> = loaded.entries.iter().map(config::Entry::shown).collect();
    let report = loaded.report().unwrap_or_else(|| SOUND.to_owned());
    format!("{report}\n{}\n{}", values.join("\n"), loaded.warnings.join("\n"))
}

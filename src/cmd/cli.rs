//! The command line: one clap command, whose flags are the settings' table.
//!
//! Flags are plain text here. They are read and checked with the other layers, so that one message names every bad
//! setting wherever it came from; clap refuses what it does not know.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, value_parser};

use super::config::Output;
use crate::config::table::{self, Setting};
use crate::config::{Command, DotEnv, render};

/// Where settings are looked for when `--env-file` is not given.
const ENV_FILE: &str = ".env";

/// The command and what only it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Everything in one process.
    Dev,
    /// The server.
    Serve,
    /// The sample worker.
    Work,
    /// Create or check the topics.
    Topics,
    /// Ask a server whether it is ready.
    Probe {
        /// Instead of `HOST` and `PORT`.
        url: Option<String>,
    },
    /// Print or check settings.
    Config {
        /// What to print.
        output: Output,
        /// The command whose settings they are.
        target: Command,
    },
}

/// A parsed command line.
#[derive(Debug, Clone)]
pub struct Cli {
    /// What to do.
    pub invocation: Invocation,
    /// Settings given as flags, by the setting's name.
    pub flags: BTreeMap<String, String>,
    env_file: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line; a bare `thousandx` means `thousandx dev`. `--help` and `--version` are "errors" too:
    /// `clap::Error::print` and `use_stderr` do what is right for each.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args: Vec<OsString> = args.into_iter().collect();
        if is_dev_implied(args.get(1)) {
            args.insert(args.len().min(1), Command::Dev.name().into());
        }
        let matches = command().try_get_matches_from(args)?;
        let (name, matches) = matches.subcommand().unwrap_or((Command::Dev.name(), &matches));
        let command = command_named(name);
        Ok(Self {
            invocation: invocation(command, matches),
            flags: setting_flags(command, matches),
            env_file: matches.get_one::<PathBuf>("env-file").cloned(),
        })
    }

    /// The command whose settings are to be loaded.
    #[must_use]
    pub fn target(&self) -> Command {
        match self.invocation {
            Invocation::Dev => Command::Dev,
            Invocation::Serve => Command::Serve,
            Invocation::Work => Command::Work,
            Invocation::Topics => Command::Topics,
            Invocation::Probe { .. } => Command::Probe,
            Invocation::Config { target, .. } => target,
        }
    }

    /// Reads `--env-file`, which must exist, or else `.env`, which may.
    #[must_use]
    pub fn dotenv(&self) -> DotEnv {
        let path = self.env_file.as_deref().unwrap_or(Path::new(ENV_FILE));
        DotEnv::read(path, self.env_file.is_some())
    }
}

/// No word at all, or a flag that is not the program's own.
fn is_dev_implied(first: Option<&OsString>) -> bool {
    let own = ["-h", "--help", "-V", "--version"];
    first.and_then(|word| word.to_str()).is_none_or(|word| word.starts_with('-') && !own.contains(&word))
}

fn command_named(name: &str) -> Command {
    let is_named = |command: &&(Command, _, _)| command.0.name() == name;
    COMMANDS.iter().find(is_named).map_or(Command::Dev, |command| command.0)
}

fn invocation(command: Command, matches: &ArgMatches) -> Invocation {
    match command {
        Command::Dev => Invocation::Dev,
        Command::Serve => Invocation::Serve,
        Command::Work => Invocation::Work,
        Command::Topics => Invocation::Topics,
        Command::Probe => Invocation::Probe { url: matches.get_one::<String>("url").cloned() },
        Command::Config => Invocation::Config {
            output: OUTPUTS.iter().find(|(flag, _, _)| matches.get_flag(flag)).map_or(Output::Listing, |(_, o, _)| *o),
            target: matches.get_one::<String>("for").map_or(Command::Serve, |name| command_named(name)),
        },
    }
}

fn setting_flags(command: Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    table::all()
        .filter(|setting| setting.is_used_by(command))
        .flat_map(|setting| [Some(setting.name.to_owned()), setting.file_name()])
        .flatten()
        .filter_map(|name| matches.get_one::<String>(&name).cloned().map(|value| (name, value)))
        .collect()
}

/// Flags of `config` that choose what it prints.
const OUTPUTS: [(&str, Output, &str); 4] = [
    ("check", Output::Check, "Print ok, or everything that is wrong (exit code 64)"),
    ("markdown", Output::Markdown, "Print the settings as Markdown tables"),
    ("markdown-codes", Output::MarkdownCodes, "Print the HTTP statuses and codes as a Markdown table"),
    ("env-example", Output::EnvExample, "Print .env.example"),
];

/// Each command, in one line and with an example session.
const COMMANDS: [(Command, &str, &str); 6] = [
    (
        Command::Dev,
        "Everything in one process: embedded broker, limiter, sample worker, server (the default)",
        "Needs no Kafka, no Redis and no settings. The broker is an embedded stand-in, not Kafka: use it to try things \
         out, not to judge speed or durability.\n\n\
         Example:\n\
         \u{20} $ thousandx\n\
         \u{20} $ curl http://127.0.0.1:8000/queue -d '{\"action\":\"get_gift_code\"}'\n\
         \u{20} {\"gift_code\":\"GIFT-…\",\"request_id\":\"…\"}",
    ),
    (
        Command::Serve,
        "The server, on real Kafka and Redis",
        "POST /queue takes an in-flight permit in Redis, puts the body on the tasks topic, waits for the reply on the \
         results topic and answers it. The first SIGTERM drains, the second ends at once.\n\n\
         Example:\n\
         \u{20} $ export KAFKA_BOOTSTRAP_SERVERS=localhost:9092 REDIS_URL=redis://localhost\n\
         \u{20} $ thousandx topics\n\
         \u{20} $ thousandx work &\n\
         \u{20} $ thousandx serve\n\
         \u{20} $ curl http://127.0.0.1:8000/queue -d '{\"action\":\"get_gift_code\"}'",
    ),
    (
        Command::Work,
        "The sample worker: a consumer group member that answers tasks",
        "Reads the tasks topic, makes a gift code for each task and sends it to the topic that the task asks for. A \
         worker in any language does the same; this one shows the record layout.\n\n\
         Example:\n\
         \u{20} $ thousandx work --kafka-bootstrap-servers localhost:9092 --worker-concurrency 4",
    ),
    (
        Command::Topics,
        "Create the two topics, or check those that exist",
        "Creates what is missing and says what differs from the settings; changes nothing that exists.\n\n\
         Example:\n\
         \u{20} $ thousandx topics --kafka-bootstrap-servers localhost:9092 --tasks-partitions 16",
    ),
    (
        Command::Probe,
        "Ask a running server whether it is ready: exit code 0 or 1",
        "GET /readyz, for the health check of an image without a shell or curl. Answers within 2 seconds.\n\n\
         Example:\n\
         \u{20} $ thousandx probe && echo ready\n\
         \u{20} $ thousandx probe --url http://127.0.0.1:8000/livez",
    ),
    (
        Command::Config,
        "Print the effective settings and their sources, or check them",
        "Passwords are never printed, nor are values of KAFKA_CONFIG.\n\n\
         Example:\n\
         \u{20} $ thousandx config --for dev\n\
         \u{20} $ thousandx config --check --for serve --env-file production.env",
    ),
];

const ABOUT: &str = "A synchronous front door to Kafka: POST a task, get the worker's answer on the same connection.\n\n\
     Settings are flags, environment variables or lines of .env, in this order; `thousandx config` shows what counts. \
     Without a command, `dev` runs.";

/// The whole command line, for parsing and for documents.
#[must_use]
pub fn command() -> clap::Command {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    // TLS needs a feature of rdkafka and of redis that Cargo.toml leaves off; `security.protocol=ssl` is refused.
    let version = format!("{}\nlibrdkafka {librdkafka}, TLS not compiled in", env!("CARGO_PKG_VERSION"));
    clap::Command::new("thousandx")
        .about("A synchronous front door to Kafka")
        .long_about(ABOUT)
        .version(version)
        .max_term_width(110)
        .subcommands(COMMANDS.map(|(command, about, session)| subcommand(command, about, session)))
}

fn subcommand(command: Command, about: &'static str, session: &'static str) -> clap::Command {
    let env_file = Arg::new("env-file")
        .long("env-file")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help("Read settings from this file; without it, from .env if there is one");
    let mut cli = clap::Command::new(command.name())
        .about(about)
        .long_about(format!("{about}.\n\n{session}"))
        .arg(env_file)
        .args(own_args(command));
    if command == Command::Config {
        cli = cli.group(ArgGroup::new("output").args(OUTPUTS.map(|(flag, _, _)| flag)));
    }
    for part in table::PARTS {
        for setting in part.settings.iter().filter(|setting| setting.is_used_by(command)) {
            cli = cli.args(setting_args(part.title, setting));
        }
    }
    cli
}

/// What a command takes beside settings.
fn own_args(command: Command) -> Vec<Arg> {
    match command {
        Command::Probe => {
            vec![Arg::new("url").long("url").value_name("URL").help("Ask this http:// URL instead of HOST and PORT")]
        }
        Command::Config => {
            let targets = COMMANDS.map(|(command, _, _)| command.name()).into_iter().filter(|name| *name != "config");
            let target = Arg::new("for")
                .long("for")
                .value_name("COMMAND")
                .value_parser(clap::builder::PossibleValuesParser::new(targets))
                .default_value("serve")
                .help("Whose settings to print or check");
            OUTPUTS
                .iter()
                .map(|(flag, _, help)| Arg::new(*flag).long(*flag).action(ArgAction::SetTrue).help(*help))
                .chain([target])
                .collect()
        }
        _ => vec![],
    }
}

/// The flag of a setting, and for a secret the flag that names a file: a password in a flag shows in `ps`.
fn setting_args(heading: &'static str, setting: &'static Setting) -> Vec<Arg> {
    let arg = |name: String, value_name: &'static str, help: String| {
        Arg::new(name.clone())
            .long(table::flag(&name))
            .value_name(value_name)
            .help(help)
            .help_heading(heading)
            .allow_hyphen_values(true)
    };
    let default = if setting.default.is_empty() { String::new() } else { format!(", default: {}", setting.default) };
    let name = setting.name;
    let help = format!("{} [{}] [env: {name}{default}]", setting.help, render::notes(setting));
    let mut args = vec![arg(name.to_owned(), "VALUE", help)];
    if let Some(file_name) = setting.file_name() {
        let help = format!("Read {name} from this file [env: {file_name}]");
        args.push(arg(file_name, "PATH", help));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn dev_is_what_runs_without_a_command() {
        assert_eq!(parse("thousandx").unwrap().invocation, Invocation::Dev);
        let cli = parse("thousandx --port 0 --redis-url-file /r").unwrap();
        assert_eq!(cli.invocation, Invocation::Dev);
        assert_eq!(cli.flags["PORT"], "0");
        assert_eq!(cli.flags["REDIS_URL_FILE"], "/r");
        assert!(parse("thousandx --version").is_err_and(|error| !error.use_stderr()));
    }

    #[test]
    fn every_setting_is_a_flag_of_the_commands_that_use_it_and_of_no_other() {
        for (command, _, _) in COMMANDS {
            for setting in table::all() {
                let result = parse(&format!("thousandx {} --{} x", command.name(), setting.flag()));
                assert_eq!(result.is_ok(), setting.is_used_by(command), "{} --{}", command.name(), setting.flag());
            }
        }
    }

    #[test]
    fn config_prints_one_thing_for_one_command() {
        let cli = parse("thousandx config --check --for work").unwrap();
        assert_eq!(cli.invocation, Invocation::Config { output: Output::Check, target: Command::Work });
        assert_eq!(cli.target(), Command::Work);
        assert!(parse("thousandx config --check --markdown").is_err());
        assert!(parse("thousandx config --for config").is_err());
    }

    #[test]
    fn the_version_names_the_kafka_client() {
        let version = command().render_version();
        assert!(version.contains("librdkafka") && version.contains("TLS not compiled in"), "{version}");
        let tls = rdkafka::ClientConfig::new().set("security.protocol", "ssl").create_native_config();
        assert!(tls.is_err(), "TLS is compiled in: the version text is wrong");
    }
}

//! Every setting, declared once. Flags, `.env.example`, `thousandx config`, the README's table and the checks all
//! follow from here; `tests/tidy` holds the files to it.

mod http;
mod kafka;
mod rest;

use super::kind::Kind;

/// The commands, as far as settings care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Everything in one process, on the embedded stack.
    Dev,
    /// The server.
    Serve,
    /// The sample worker.
    Work,
    /// Creates or checks the topics.
    Topics,
    /// Asks a running server whether it is ready.
    Probe,
    /// Prints or checks the settings of any other command.
    Config,
}

impl Command {
    /// The word on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Serve => "serve",
            Self::Work => "work",
            Self::Topics => "topics",
            Self::Probe => "probe",
            Self::Config => "config",
        }
    }
}

/// One setting: an environment variable, and the flag of the same name in kebab case.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The value when nobody gives one; empty: none.
    pub default: &'static str,
    /// What `thousandx dev` uses instead of the default.
    pub dev_preset: Option<&'static str>,
    /// Unit of the value, or what it is a list of; empty where the kind says it all.
    pub unit: &'static str,
    /// What it does and why one would change it.
    pub help: &'static str,
    /// Never printed; may come from the file that `NAME_FILE` names.
    pub secret: bool,
    /// The commands that read it.
    pub used_by: &'static [Command],
    /// The commands that cannot start without it.
    pub needed_by: &'static [Command],
}

impl Setting {
    /// Whether `command` reads it, and so has a flag for it. `config` has them all.
    #[must_use]
    pub fn is_used_by(&self, command: Command) -> bool {
        command == Command::Config || self.used_by.contains(&command)
    }

    /// `MAX_BODY_BYTES` → `max-body-bytes`.
    #[must_use]
    pub fn flag(&self) -> String {
        flag(self.name)
    }

    /// The variable that names a file with the value, for secrets.
    #[must_use]
    pub fn file_name(&self) -> Option<String> {
        self.secret.then(|| format!("{}_FILE", self.name))
    }

    /// Unit and range in one phrase, e.g. `bytes, 1 to 100`.
    #[must_use]
    pub fn unit_and_range(&self) -> String {
        let range = self.kind.range();
        match (self.unit, range.as_str()) {
            (unit, "") => unit.to_owned(),
            ("", range) => range.to_owned(),
            (unit, range) => format!("{unit}, {range}"),
        }
    }

    const fn default(mut self, value: &'static str) -> Self {
        self.default = value;
        self
    }

    const fn dev(mut self, value: &'static str) -> Self {
        self.dev_preset = Some(value);
        self
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn needed_by(mut self, commands: &'static [Command]) -> Self {
        self.needed_by = commands;
        self
    }

    const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }
}

/// Settings that belong together; the title is a heading in `--help`, `.env.example` and the README.
#[derive(Debug)]
pub struct Part {
    /// The heading.
    pub title: &'static str,
    /// In the order of all listings.
    pub settings: &'static [Setting],
}

/// All settings, in the order of all listings.
pub static PARTS: [&Part; 9] = [
    &http::LISTENING,
    &http::LIMITS,
    &http::DRAIN,
    &rest::LIMITER,
    &kafka::TOPICS_AND_RECORDS,
    &kafka::CLIENT_TUNING,
    &rest::WORKER,
    &rest::TOPICS,
    &rest::PROCESS,
];

/// All settings, in order.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    PARTS.iter().flat_map(|part| part.settings)
}

/// The setting of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.name == name)
}

/// `MAX_BODY_BYTES` → `max-body-bytes`.
#[must_use]
pub fn flag(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

const SERVER: &[Command] = &[Command::Dev, Command::Serve];
const SERVER_AND_PROBE: &[Command] = &[Command::Dev, Command::Serve, Command::Probe];
const CLIENTS: &[Command] = &[Command::Dev, Command::Serve, Command::Work];
const CLIENTS_AND_TOPICS: &[Command] = &[Command::Dev, Command::Serve, Command::Work, Command::Topics];
const REAL_KAFKA: &[Command] = &[Command::Serve, Command::Work, Command::Topics];
const WORKER: &[Command] = &[Command::Dev, Command::Work];
const TOPICS: &[Command] = &[Command::Dev, Command::Topics];

/// A row of the table; what is not said by the builder methods is empty.
const fn setting(name: &'static str, used_by: &'static [Command], kind: Kind) -> Setting {
    Setting { name, kind, default: "", dev_preset: None, unit: "", help: "", secret: false, used_by, needed_by: &[] }
}

/// A whole number.
const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

/// A number of milliseconds, from `min` to an hour: longer than any sensible timeout of a request.
const fn ms(min: u64) -> Kind {
    Kind::Integer { min, max: 3_600_000 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_row_is_complete() {
        let mut names = BTreeSet::new();
        for setting in all() {
            assert!(names.insert(setting.name), "{} is declared twice", setting.name);
            assert!(setting.help.ends_with('.'), "{} has no help", setting.name);
            assert!(!setting.unit_and_range().is_empty(), "{} has no unit", setting.name);
            assert!(!setting.used_by.is_empty(), "{} is read by no command", setting.name);
            assert!(setting.needed_by.iter().all(|need| setting.used_by.contains(need)), "{}", setting.name);
        }
    }

    #[test]
    fn file_variables_do_not_collide_with_settings() {
        for name in all().filter_map(Setting::file_name) {
            assert!(find(&name).is_none(), "{name} is a setting of its own");
        }
    }
}

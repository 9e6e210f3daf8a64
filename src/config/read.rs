//! Reads the values of one command's settings and keeps what is wrong with them, so that all of it is told at once.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::kind::{self, Kind};
use super::source::{Found, Layers, Origin};
use super::table::{self, Command, Setting};
use super::{Config, Secret};
use crate::error::StartError;

/// One thing that is wrong. `Display` is one line that names the key and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, or the key or file that was given instead.
    pub key: String,
    text: String,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { key: key.into(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.text)
    }
}

/// The effective value of one setting.
pub struct Entry {
    /// Its row in the table.
    pub setting: &'static Setting,
    /// The layer that gave the value.
    pub origin: Origin,
    /// Whether the command reads it.
    pub used: bool,
    value: Secret,
}

impl Entry {
    /// The value as it may be printed.
    #[must_use]
    pub fn shown(&self) -> String {
        self.setting.kind.shown(self.value.expose(), self.setting.secret)
    }
}

/// The settings of a command, read and checked.
pub struct Loaded {
    /// The command.
    pub command: Command,
    /// Every setting, also those that the command does not read, in the order of the table.
    pub entries: Vec<Entry>,
    /// What is wrong; the command may start when this is empty.
    pub problems: Vec<Problem>,
    /// What is strange and not wrong; to be logged once.
    pub warnings: Vec<String>,
    pub(super) config: Config,
}

impl Loaded {
    /// The settings if they are sound.
    pub fn into_config(self) -> Result<Config, StartError> {
        match self.report() {
            None => Ok(self.config),
            Some(report) => Err(StartError::Settings(report)),
        }
    }

    /// One message with everything that is wrong, or `None`.
    #[must_use]
    pub fn report(&self) -> Option<String> {
        let count = match self.problems.len() {
            0 => return None,
            1 => "1 setting is wrong".to_owned(),
            n => format!("{n} settings are wrong"),
        };
        let command = self.command.name();
        let lines: Vec<String> = self.problems.iter().map(|problem| format!("  {problem}")).collect();
        let lines = lines.join("\n");
        Some(format!(
            "{count} for `thousandx {command}`:\n{lines}\n`thousandx {command} --help` explains every setting; \
             `thousandx config --check --for {command}` checks again."
        ))
    }
}

/// Reads values by name. A wrong one is kept as a problem and stands in as the type's zero: with a problem no
/// [`Config`] is handed out.
pub(super) struct Reader {
    pub(super) command: Command,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    read: BTreeSet<&'static str>,
}

impl Reader {
    pub(super) fn new(command: Command, layers: &Layers<'_>) -> Self {
        let mut problems = layers.dotenv.problems.clone();
        let mut of_others = Vec::new();
        let entries = table::all()
            .map(|setting| {
                let used = setting.is_used_by(command);
                let found = layers.find(setting, command, if used { &mut problems } else { &mut of_others });
                let Found { value, origin } = found;
                Entry { setting, origin, used, value: Secret::new(value) }
            })
            .collect();
        Self { command, entries, problems, warnings: layers.dotenv.warnings.clone(), read: BTreeSet::new() }
    }

    /// The parsed value; `None` if it is not set, not read by this command, or wrong.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&'static Kind, &str) -> Option<T>,
    ) -> Option<T> {
        self.read.insert(name);
        let entry = self.entry(name);
        let (setting, value) = (entry.setting, entry.value.clone());
        let needed = setting.needed_by.contains(&self.command);
        match value.expose() {
            _ if !entry.used => parse(&setting.kind, setting.default),
            "" if needed && self.is_sound(&[name]) => {
                self.problems.push(Problem::new(name, format!("is not set; expected {}", setting.kind.expected())));
                None
            }
            "" => None,
            text => {
                let parsed = parse(&setting.kind, text);
                if parsed.is_none() {
                    self.wrong(name, &setting.kind.expected());
                }
                parsed
            }
        }
    }

    /// A number of [`Kind::Integer`].
    pub(super) fn integer<T: TryFrom<u64> + Default>(&mut self, name: &'static str) -> T {
        let parse = |kind: &Kind, text: &str| match kind {
            Kind::Integer { min, max } => kind::integer(text, *min, *max).and_then(|n| T::try_from(n).ok()),
            _ => None,
        };
        self.parsed(name, parse).unwrap_or_default()
    }

    /// A duration given as [`Kind::Integer`] milliseconds.
    pub(super) fn ms(&mut self, name: &'static str) -> Duration {
        Duration::from_millis(self.integer(name))
    }

    /// A number of [`Kind::Decimal`].
    pub(super) fn decimal(&mut self, name: &'static str) -> f64 {
        let parse = |kind: &Kind, text: &str| match kind {
            Kind::Decimal { min, max } => kind::decimal(text, *min, *max),
            _ => None,
        };
        self.parsed(name, parse).unwrap_or_default()
    }

    /// A word of [`Kind::Choice`].
    pub(super) fn choice(&mut self, name: &'static str) -> String {
        let parse = |kind: &Kind, text: &str| match kind {
            Kind::Choice(words) => kind::choice(text, words),
            _ => None,
        };
        self.parsed(name, parse).unwrap_or_default()
    }

    /// Text that `parse` accepts.
    pub(super) fn text(&mut self, name: &'static str, parse: fn(&str) -> Option<String>) -> String {
        self.parsed(name, |_, text| parse(text)).unwrap_or_default()
    }

    /// Whether the setting has a value.
    pub(super) fn is_set(&self, name: &'static str) -> bool {
        !self.entry(name).value.expose().is_empty()
    }

    /// Where the setting's value came from.
    pub(super) fn origin(&self, name: &'static str) -> Origin {
        self.entry(name).origin.clone()
    }

    /// Whether the command reads all of `names` and nothing is wrong with them, so that they can be compared.
    pub(super) fn is_sound(&self, names: &[&'static str]) -> bool {
        names.iter().all(|name| {
            let file = self.entry(name).setting.file_name();
            let concerns = |problem: &Problem| problem.key == *name || Some(&problem.key) == file.as_ref();
            self.entry(name).used && !self.problems.iter().any(concerns)
        })
    }

    /// Keeps that the setting's value is wrong, with the value (redacted), its origin and what was expected.
    pub(super) fn wrong(&mut self, name: &'static str, expected: &str) {
        let entry = self.entry(name);
        let text = match entry.value.expose() {
            "" => format!("is not set; expected {expected}"),
            _ => format!("= \"{}\" ({}): expected {expected}", entry.shown(), entry.origin),
        };
        self.problems.push(Problem::new(name, text));
    }

    /// Keeps something strange that is to be logged.
    pub(super) fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    /// Puts the dev preset in the place of what a layer said.
    pub(super) fn fall_back_to_preset(&mut self, name: &'static str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.setting.name == name) {
            entry.value = Secret::new(entry.setting.dev_preset.unwrap_or(entry.setting.default));
            entry.origin = Origin::DevPreset;
        }
    }

    pub(super) fn finish(self, config: Config) -> Loaded {
        let forgotten = table::all().find(|setting| !self.read.contains(setting.name));
        debug_assert!(forgotten.is_none(), "no code reads {forgotten:?}");
        let Self { command, entries, problems, warnings, .. } = self;
        Loaded { command, entries, problems, warnings, config }
    }

    /// # Panics
    /// If the table has no such setting: a slip in the caller, found by any test that loads settings.
    fn entry(&self, name: &str) -> &Entry {
        match self.entries.iter().find(|entry| entry.setting.name == name) {
            Some(entry) => entry,
            None => unreachable!("no setting {name} in the table"),
        }
    }
}

//! Where values come from: flags > environment > `.env` > dev preset > default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::read::Problem;
use super::table::{self, Command, Setting};

/// Longest file that a secret is read from: far more than any password or URL.
const SECRET_BYTES_MAX: u64 = 65_536;

/// Something that has values by name: the environment of the process, or a map.
pub trait Source {
    /// The value of `name`, if it has one.
    fn get(&self, name: &str) -> Option<OsString>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Environment;

impl Source for Environment {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

impl Source for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<OsString> {
        Self::get(self, name).map(OsString::from)
    }
}

/// The layers that a setting is looked for in.
pub struct Layers<'a> {
    /// From the command line, by the setting's name.
    pub flags: BTreeMap<String, String>,
    /// Usually [`Environment`].
    pub environment: &'a dyn Source,
    /// The `.env` file.
    pub dotenv: DotEnv,
}

/// The contents of a `.env` file. The environment of the process is left as it is.
#[derive(Debug, Default)]
pub struct DotEnv {
    path: PathBuf,
    values: BTreeMap<String, String>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

/// Which layer gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line; the flag without its dashes.
    Flag(String),
    /// The environment.
    Environment,
    /// The `.env` file at this path.
    DotEnv(PathBuf),
    /// What `dev` uses instead of the default.
    DevPreset,
    /// The table.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag --{flag}"),
            Self::Environment => f.write_str("environment"),
            Self::DotEnv(path) => write!(f, "{}", path.display()),
            Self::DevPreset => f.write_str("dev preset"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) value: String,
    pub(super) origin: Origin,
}

impl DotEnv {
    /// Reads the file. A missing one is empty, unless `required`; every other fault is kept as a problem, so that it
    /// is reported together with the others.
    #[must_use]
    pub fn read(path: &Path, required: bool) -> Self {
        let mut dotenv = Self { path: path.to_owned(), ..Self::default() };
        match dotenvy::from_path_iter(path) {
            Ok(lines) => dotenv.take(lines),
            Err(error) if error.not_found() && !required => {}
            Err(error) => dotenv.cannot_read(&error),
        }
        dotenv
    }

    /// The same from anything that can be read; `path` is what messages call it.
    #[doc(hidden)] // public for fuzz/
    #[must_use]
    pub fn from_reader(path: &Path, file: impl Read) -> Self {
        let mut dotenv = Self { path: path.to_owned(), ..Self::default() };
        dotenv.take(dotenvy::from_read_iter(file));
        dotenv
    }

    fn take(&mut self, lines: impl Iterator<Item = dotenvy::Result<(String, String)>>) {
        for line in lines {
            match line {
                Ok((name, value)) => {
                    self.check_name(&name);
                    self.values.entry(name).or_insert(value);
                }
                // The line itself may hold a secret: name the key only.
                Err(dotenvy::Error::LineParse(line, _)) => {
                    let key: String =
                        line.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                    let key = if line.contains('=') && !key.is_empty() { key } else { "a line".to_owned() };
                    let text =
                        format!("({}): cannot be read; expected NAME=value, or NAME='value'", self.path.display());
                    self.problems.push(Problem::new(key, text));
                }
                Err(error) => {
                    self.cannot_read(&error);
                    return; // the reader would give the same error for ever
                }
            }
        }
    }

    fn cannot_read(&mut self, error: &dotenvy::Error) {
        self.problems.push(Problem::new(self.path.display().to_string(), format!("cannot be read: {error}")));
    }

    /// A name that is nearly a setting's is a slip that would go unnoticed; any other may be meant for other programs.
    fn check_name(&mut self, name: &str) {
        let known = table::all().any(|setting| setting.name == name || setting.file_name().as_deref() == Some(name));
        if known {
            return;
        }
        match nearest(name) {
            Some(near) => self.problems.push(Problem::new(
                name.to_owned(),
                format!("({}): there is no such setting; did you mean {near}?", self.path.display()),
            )),
            None => self.warnings.push(format!("{}: {name} is not a setting; ignored", self.path.display())),
        }
    }
}

impl Layers<'_> {
    /// The value of a setting for `command`, from the first layer that has one. An empty value counts as none.
    pub(super) fn find(&self, setting: &'static Setting, command: Command, problems: &mut Vec<Problem>) -> Found {
        let layers: [(Origin, &dyn Source); 3] = [
            (Origin::Flag(setting.flag()), &self.flags),
            (Origin::Environment, self.environment),
            (Origin::DotEnv(self.dotenv.path.clone()), &self.dotenv.values),
        ];
        for (origin, source) in layers {
            match value_in(setting, source, &origin) {
                Ok(Some(value)) => return Found { value, origin },
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        match setting.dev_preset {
            Some(preset) if command == Command::Dev => Found { value: preset.into(), origin: Origin::DevPreset },
            _ => Found { value: setting.default.into(), origin: Origin::Default },
        }
    }
}

/// The setting's value in one layer: its own, or for a secret the contents of the file that `NAME_FILE` names.
fn value_in(setting: &Setting, source: &dyn Source, origin: &Origin) -> Result<Option<String>, Problem> {
    let get = |name: &str| match source.get(name).map(OsString::into_string) {
        Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
        Some(Err(_)) => Err(Problem::new(name, format!("({origin}): expected UTF-8"))),
        None => Ok(None),
    };
    let value = get(setting.name)?;
    let Some(file_name) = setting.file_name() else { return Ok(value) };
    match (value, get(&file_name)?) {
        (Some(_), Some(_)) => {
            Err(Problem::new(file_name, format!("({origin}): {} is set as well; expected one of them", setting.name)))
        }
        (None, Some(path)) => read_secret(Path::new(&path)).map(Some).map_err(|cause| {
            Problem::new(file_name, format!("= {path:?} ({origin}): {cause}; expected a readable file"))
        }),
        (value, None) => Ok(value),
    }
}

/// The file's contents without the newline that editors and `echo` add.
fn read_secret(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(std::io::Error::other(format!("longer than {SECRET_BYTES_MAX} bytes")));
    }
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err(std::io::Error::other("the file is empty")) } else { Ok(text.to_owned()) }
}

/// The setting whose name is at most two slips away: a letter added, left out, changed, or two swapped.
fn nearest(name: &str) -> Option<&'static str> {
    table::all()
        .map(|setting| (strsim::damerau_levenshtein(&name.to_ascii_uppercase(), setting.name), setting.name))
        .filter(|(slips, setting)| *slips <= 2 && *slips * 3 < setting.len())
        .min()
        .map(|(_, setting)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_names_of_other_programs() {
        assert_eq!(nearest("RATE_LIMIT_CAPACTIY"), Some("RATE_LIMIT_CAPACITY"));
        assert_eq!(nearest("KAFKA_BOOTSTRAP_SERVER"), Some("KAFKA_BOOTSTRAP_SERVERS"));
        assert_eq!(nearest("port"), Some("PORT"));
        assert_eq!(nearest("POSTGRES_PASSWORD"), None);
        assert_eq!(nearest("FOO"), None);
        assert_eq!(nearest("MODE"), None);
    }
}

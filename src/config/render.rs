//! The table as text: for `thousandx config`, `.env.example` and the README.

use std::fmt::Write;

use super::read::Loaded;
use super::table::{self, PARTS, Setting};

/// Width of a comment line in `.env.example`, in characters.
const COMMENT_WIDTH: usize = 110;

/// One line per setting: name, effective value, source. Secrets are redacted.
#[must_use]
pub fn listing(loaded: &Loaded) -> String {
    let name_width = table::all().map(|setting| setting.name.len()).max().unwrap_or(0);
    let values: Vec<String> = loaded.entries.iter().map(|entry| quoted_if_needed(&entry.shown())).collect();
    // One very long value must not push the sources of all others out of sight.
    let value_width = values.iter().map(|value| value.chars().count()).max().unwrap_or(0).min(44);
    let mut text = String::new();
    for (entry, value) in loaded.entries.iter().zip(&values) {
        let unused = if entry.used { String::new() } else { format!(", not read by {}", loaded.command.name()) };
        let name = entry.setting.name;
        line(&mut text, format_args!("{name:name_width$} = {value:value_width$}  # {}{unused}", entry.origin));
    }
    text
}

/// `.env.example`: every setting with its default, commented out, so that a copy changes nothing before it is edited.
#[must_use]
pub fn env_example() -> String {
    let mut text = String::from(
        "# Settings of thousandx. Copy to .env and uncomment what you change.\n\
         # Flags come before the environment, the environment before .env, .env before the default shown here.\n\
         # A secret may also come from a file: NAME_FILE=/path instead of NAME=value.\n\
         # Made by `thousandx config --env-example`; a test compares.\n",
    );
    for part in PARTS {
        let heading = format!("# --- {} ---", part.title);
        line(&mut text, format_args!("\n{heading}"));
        for setting in part.settings {
            text.push('\n');
            let comments = wrapped(setting.help).into_iter().chain([format!("Value: {}.", notes(setting))]);
            for comment in comments {
                line(&mut text, format_args!("# {comment}"));
            }
            line(&mut text, format_args!("#{}={}", setting.name, setting.default));
        }
    }
    text
}

/// The settings as Markdown: a table per part.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::new();
    for part in PARTS {
        let title = part.title;
        line(
            &mut text,
            format_args!("\n**{title}**\n\n| setting | default | unit, range | what for |\n|---|---|---|---|"),
        );
        for setting in part.settings {
            let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
            let preset = setting.dev_preset.map(|preset| format!(" (`dev`: `{preset}`)")).unwrap_or_default();
            let secret = if setting.secret { " A password in it is never printed." } else { "" };
            let unit = setting.unit_and_range().replace('|', "\\|");
            let (name, help) = (setting.name, setting.help.replace('|', "\\|"));
            line(&mut text, format_args!("| `{name}` | {default}{preset} | {unit} | {help}{secret} |"));
        }
    }
    text
}

/// Unit, range and what is special about a setting, in one phrase.
#[must_use]
pub fn notes(setting: &Setting) -> String {
    let mut notes = setting.unit_and_range();
    if let Some(preset) = setting.dev_preset {
        append(&mut notes, format_args!("; {preset} in dev"));
    }
    if let Some(file_name) = setting.file_name() {
        append(&mut notes, format_args!("; secret, or {file_name}"));
    }
    notes
}

fn quoted_if_needed(value: &str) -> String {
    if value.is_empty() || value.contains([' ', '#']) { format!("\"{value}\"") } else { value.to_owned() }
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().filter(|line| line.len() + 1 + word.len() <= COMMENT_WIDTH);
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => append(line, format_args!(" {word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    append(text, line);
    text.push('\n');
}

fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = text.write_fmt(more);
}

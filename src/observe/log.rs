//! Structured logs on standard error: text on a terminal, JSON otherwise.

use std::fmt::{self, Write};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::config::{LogFormat, LogSettings};
use crate::error::StartError;

/// Starts the log of the process; the first call counts.
///
/// Text from outside cannot start a line of its own or reach the terminal: control characters are escaped, in both
/// formats and in messages as well as in fields.
///
/// # Errors
/// [`StartError::Settings`] if the filter does not parse; the settings' check has found that before.
pub fn init(settings: &LogSettings) -> Result<(), StartError> {
    let filter = EnvFilter::builder()
        .parse(&settings.filter)
        .map_err(|error| StartError::Settings(format!("LOG_LEVEL={:?}: {error}", settings.filter)))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // The only failure is that a log is running already, as in tests.
    let _ = if json {
        log.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        log.with_ansi(terminal).fmt_fields(debug_fn(write_field).delimited(" ")).try_init()
    };
    // A panic is a line of the log like any other: one object, with its place. The request goes on as a 500.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a panic")));
    Ok(())
}

/// `message` as it is, any other field as `name=value`; both escaped.
fn write_field(writer: &mut Writer<'_>, field: &tracing::field::Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaped(writer), "{value:?}")
}

/// Writes control characters as `\n`, `\u{1b}`, …
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            match piece.chars().next_back().filter(|last| last.is_control()) {
                Some(control) => {
                    self.0.write_str(&piece[..piece.len() - control.len_utf8()])?;
                    write!(self.0, "{}", control.escape_default())?;
                }
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

/// Lets one line through per interval and counts the rest: a lost dependency must not flood the log.
///
/// ```
/// # use std::time::Duration;
/// static THROTTLE: thousandx::observe::log::Throttle =
///     thousandx::observe::log::Throttle::new(Duration::from_secs(10));
/// if let Some(suppressed) = THROTTLE.pass() {
///     tracing::warn!(suppressed, "Redis does not answer");
/// }
/// ```
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// At most one line per `interval`.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new(State { last: None, suppressed: 0 }) }
    }

    /// Whether a line may be written now, and if so how many were not since the last one.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    /// The same at a given time.
    pub fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let too_soon = state.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval);
        if too_soon {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn one_line_per_interval_and_the_rest_is_counted() {
        let (throttle, start) = (Throttle::new(INTERVAL), Instant::now());
        assert_eq!(throttle.pass_at(start), Some(0));
        assert_eq!(throttle.pass_at(start), None);
        assert_eq!(throttle.pass_at(start + Duration::from_millis(9_999)), None);
        assert_eq!(throttle.pass_at(start + INTERVAL), Some(2));
        assert_eq!(throttle.pass_at(start + INTERVAL), None);
        assert_eq!(throttle.pass_at(start + INTERVAL * 3), Some(1));
        assert_eq!(throttle.pass_at(start + INTERVAL * 5), Some(0), "the count starts anew");
    }

    #[test]
    fn a_clock_read_before_another_threads_line_is_too_soon() {
        let (throttle, before) = (Throttle::new(INTERVAL), Instant::now());
        assert_eq!(throttle.pass_at(before + INTERVAL), Some(0));
        assert_eq!(throttle.pass_at(before), None);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn text_from_outside_stays_on_its_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .finish();
        let evil = "a\nFORGED \u{1b}[31mé\r";
        tracing::subscriber::with_default(log, || tracing::warn!(plain = %evil, quoted = evil, n = 1, "said {evil}"));
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.contains(['\u{1b}', '\r']), "{text}");
        let escaped = r"a\nFORGED \u{1b}[31mé\r";
        assert!(
            text.trim_end().ends_with(&format!("said {escaped} plain={escaped} quoted=\"{escaped}\" n=1")),
            "{text}"
        );
    }
}

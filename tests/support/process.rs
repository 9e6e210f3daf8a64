//! A child process that belongs to one test: it ends when its [`Process`] is dropped, and in any case with the test
//! binary, also when that is killed.
//!
//! The second half is the kernel's `PR_SET_PDEATHSIG`, set by `setpriv` (util-linux). It fires at the end of the *thread*
//! that started the child, and the test runner gives every test a thread of its own; so one thread, which lives as long as
//! the binary, starts them all.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;

/// How much of a log goes into a failure message.
const TAIL_LINES: usize = 30;

/// A running child, its output in a file.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// A command to be started with [`Process::spawn`]: arguments, environment and directory are the caller's to add.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg("KILL").arg("--").arg(program);
    command
}

impl Process {
    /// Starts a [`command`], with standard output and error going to the end of the file `log`.
    pub fn spawn(name: &'static str, mut command: Command, log: PathBuf) -> Self {
        let open = || File::options().create(true).append(true).open(&log);
        let (stdout, stderr) = open()
            .and_then(|stdout| Ok((stdout, open()?)))
            .unwrap_or_else(|error| panic!("the log {} cannot be written: {error}", log.display()));
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = spawn_for_life(command)
            .unwrap_or_else(|error| panic!("{name} could not be started by setpriv (Debian: util-linux): {error}"));
        Self { name, child, log }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it ever had resident (`VmHWM` of `/proc/PID/status`), in bytes.
    pub fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the status of a child");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib << 10
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child can be asked for")
    }

    /// Waits for its end. Fails the test when it still runs after `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        match wait_until(limit, || self.exited()) {
            Some(status) => status,
            None => self.fail(&format!("still runs after {limit:?}")),
        }
    }

    /// SIGTERM: asks it to end.
    pub fn sigterm(&mut self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a killed child can be waited for");
    }

    /// SIGSTOP: it hangs, its sockets stay open.
    pub fn sigstop(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on.
    pub fn sigcont(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until its log holds `text`. Fails the test after `limit`.
    pub fn wait_log(&mut self, text: &str, limit: Duration) {
        if wait_until(limit, || self.log().contains(text).then_some(())).is_none() {
            self.fail(&format!("did not log {text:?} within {limit:?}"));
        }
    }

    /// Fails the test: the process, what is wrong with it, and the end of its log.
    pub fn fail(&self, what: &str) -> ! {
        panic!("{} (pid {}) {what}; the end of its log:\n{}", self.name, self.pid(), tail(&self.log));
    }

    fn signal(&mut self, signal: Signal) {
        // Once the child has been waited for, its pid may be someone else's.
        if self.exited().is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).unwrap_or_else(|error| panic!("signal to {}: {error}", self.name));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // No assertions here: the test may be failing already. Killing a child that has ended is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a file, or why it cannot be read.
pub fn tail(log: &Path) -> String {
    match std::fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("({}: {error})", log.display()),
    }
}

type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Starts the child from the thread that lives as long as the test binary.
pub fn spawn_for_life(command: Command) -> io::Result<Child> {
    static ORDERS: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                // Ends only with the process: the sender is a static.
                for (mut command, reply) in inbox {
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        orders
    });
    let (reply, child) = mpsc::sync_channel(1);
    ORDERS.send((command, reply)).expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers every order")
}

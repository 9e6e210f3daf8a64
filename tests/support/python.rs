//! Workers in Python: the template's kind, `tests/template_worker/worker.py`, and the documents' example,
//! `docs/worker.py`.

use std::time::Duration;

use tempfile::TempDir;

use super::kafka::Kafka;
use super::process::{Process, command};
use super::{cached, repository, scratch_dir};

/// Until it has loaded its modules and joined its group, on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A running Python worker; ends when dropped.
pub struct PythonWorker {
    process: Process,
    _dir: TempDir,
}

impl PythonWorker {
    /// Starts the template's kind on these topics and waits until its clients are connected.
    ///
    /// # Panics
    ///
    /// With how to get it, when Python or the packages cannot be had.
    pub fn start(kafka: &Kafka, tasks: &str, results: &str) -> Self {
        Self::start_script("tests/template_worker/worker.py", kafka, tasks, results)
    }

    /// The same with another script of this repository.
    pub fn start_script(script: &str, kafka: &Kafka, tasks: &str, results: &str) -> Self {
        let requirements = repository("tests/template_worker/requirements.txt");
        let requirements = requirements.to_str().expect("a path in UTF-8");
        let python = cached("scripts/lib/python.sh", &["venv", requirements]);
        let dir = scratch_dir("python");
        let mut command = command(python);
        command
            .arg(repository(script))
            .env("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap())
            .env("TASKS_TOPIC", tasks)
            .env("RESULTS_TOPIC", results)
            .env("WORKER_GROUP", format!("group-of-{tasks}"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = Process::spawn("the Python worker", command, dir.path().join("log"));
        process.wait_log("worker started", START_LIMIT);
        Self { process, _dir: dir }
    }

    /// The process, for signals and its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

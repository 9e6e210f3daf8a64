//! The records of a history: JSON, one object a line, times in ns of the `CLOCK_MONOTONIC` of one machine.
//!
//! ```json
//! {"t":1,"who":"driver","event":"start","capacity":20,"lease_ms":9000,"release_ms":1000,"refusal_ms":260}
//! {"t":2,"who":"client-3","event":"call","id":"3-17","deadline_ms":4000,"server":"server-1"}
//! {"t":3,"who":"worker-1","event":"take","id":"3-17"}
//! {"t":4,"who":"worker-1","event":"reply","id":"3-17"}
//! {"t":5,"who":"client-3","event":"return","id":"3-17","status":200,"answer":"3-17"}
//! {"t":6,"who":"limiter","event":"permits","size":0}
//! ```

use serde::Deserialize;

use crate::history::Malformed;

/// One record.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// When. A call: before its first byte was sent; an end, a take: after it was seen; a reply: before it was sent.
    pub t: u64,
    /// Who saw it, or, of a fault and a heal, to whom it happened.
    pub who: String,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a record says.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The terms; every history has them, once.
    Start(Terms),
    /// A client begins to send a request.
    Call {
        /// Its nonce.
        id: String,
        /// The server's reply deadline.
        deadline_ms: u64,
        /// To whom, for requests that may get lost with their server.
        server: Option<String>,
    },
    /// A client has read a complete answer.
    Return {
        /// Of the request.
        id: String,
        /// HTTP status.
        status: u16,
        /// The code of a problem document.
        code: Option<String>,
        /// The nonce in the answer, if there is one; a 200 has to have one.
        answer: Option<String>,
    },
    /// A client closes its connection without waiting for the answer.
    Leave {
        /// Of the request.
        id: String,
    },
    /// The connection ended before the answer.
    Lost {
        /// Of the request.
        id: String,
    },
    /// A worker has a task.
    Take {
        /// Of the request.
        id: String,
    },
    /// A worker is about to send its reply.
    Reply {
        /// Of the request.
        id: String,
    },
    /// A fault begins. `kill` of a server is the one that may lose requests.
    Fault {
        /// E.g. `kill`, `stop`, `term`, `flushall`.
        what: String,
    },
    /// The fault of the same `who` is over.
    Heal,
    /// How many permits the limiter's store holds.
    Permits {
        /// Members of the set.
        size: u64,
    },
    /// A window in which a promise is not made, see P10.
    Excuse(Excuse),
}

/// What the server was set to, and what its documents allow it.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Terms {
    /// Permits.
    pub capacity: usize,
    /// A permit that nobody gives back or renews is gone after this.
    pub lease_ms: u64,
    /// A permit is gone at most so long after its request's end, while Redis answers.
    #[serde(default = "default_release_ms")]
    pub release_ms: u64,
    /// A refusal may rest on the state of so long ago: a shard that knows the set to be full does not ask again at once.
    #[serde(default)]
    pub refusal_ms: u64,
}

fn default_release_ms() -> u64 {
    1_000
}

/// A promise that is not made in a window of time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Excuse {
    /// E.g. `P3`.
    pub promise: String,
    /// Its begin, in ns.
    pub from: u64,
    /// Its end, in ns.
    pub to: u64,
    /// Why, in words.
    pub why: Option<String>,
}

/// Reads the records of one file; empty lines are passed over.
pub fn parse(name: &str, text: &str) -> Result<Vec<Event>, Malformed> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let event = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| Malformed(format!("{name}:{}: {error}: {line}", number + 1)))
    };
    lines.map(event).collect()
}

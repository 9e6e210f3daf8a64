//! The records put together: every request with its end and its tasks, the faults, the excuses.

use std::collections::HashMap;
use std::fmt;

use crate::Violation;
use crate::event::{Event, Excuse, Terms, What};

/// ns in a ms.
pub const MS: u64 = 1_000_000;

/// Why records are no history: nothing can be said about the promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed history: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Everything that was recorded. Times in ns.
#[derive(Debug)]
pub struct History {
    /// What the server was set to.
    pub terms: Terms,
    /// In the order of their calls.
    pub requests: Vec<Request>,
    /// In the order of their begins.
    pub faults: Vec<Fault>,
    /// When, and how many.
    pub permits: Vec<(u64, u64)>,
    /// As recorded.
    pub excuses: Vec<Excuse>,
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Its nonce.
    pub id: String,
    /// Before its first byte was sent.
    pub called: u64,
    /// The call and its deadline: the server's own is not earlier.
    pub deadline: u64,
    /// Who got it.
    pub server: Option<String>,
    /// One, if all is well.
    pub ends: Vec<End>,
    /// When a worker had its task; more than once after a worker's death.
    pub takes: Vec<u64>,
    /// When a worker was about to reply.
    pub replies: Vec<u64>,
}

/// How a request ended, as its client saw it.
#[derive(Debug)]
pub struct End {
    /// When it was seen.
    pub t: u64,
    /// How.
    pub how: How,
}

/// The ways to end.
#[derive(Debug, PartialEq, Eq)]
pub enum How {
    /// With an answer.
    Answered {
        /// HTTP status.
        status: u16,
        /// The code of a problem document.
        code: Option<String>,
        /// The nonce in it.
        answer: Option<String>,
    },
    /// The client went away.
    Left,
    /// The server went away.
    Lost,
}

/// A fault and its end.
#[derive(Debug)]
pub struct Fault {
    /// To whom.
    pub who: String,
    /// E.g. `kill`.
    pub what: String,
    /// Its begin.
    pub from: u64,
    /// Its end; `None`: it was never healed.
    pub to: Option<u64>,
}

impl History {
    /// Puts the records in order and together.
    pub fn new(mut events: Vec<Event>) -> Result<Self, Malformed> {
        events.sort_by_key(|event| event.t);
        let mut builder = Builder::default();
        // Calls first: of two records of one moment, the call may stand behind.
        for event in &events {
            builder.call(event)?;
        }
        for event in events {
            builder.rest(event)?;
        }
        let terms = builder.terms.ok_or_else(|| Malformed("no start record".into()))?;
        let Builder { requests, faults, permits, excuses, .. } = builder;
        Ok(Self { terms, requests, faults, permits, excuses })
    }

    /// Whether an excuse of the violation's promise covers its moment.
    #[must_use]
    pub fn is_excused(&self, violation: &Violation) -> bool {
        self.excuses_of(violation.promise).any(|excuse| (excuse.from..=excuse.to).contains(&violation.t))
    }

    /// The excuses of a promise.
    pub fn excuses_of(&self, promise: &str) -> impl Iterator<Item = &Excuse> {
        self.excuses.iter().filter(move |excuse| excuse.promise == promise)
    }

    /// When a server was killed.
    #[must_use]
    pub fn killed(&self, server: &str) -> Option<u64> {
        self.faults.iter().find(|fault| fault.who == server && fault.what == "kill").map(|fault| fault.from)
    }
}

impl Request {
    /// Its first end.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.ends.first()
    }
}

#[derive(Default)]
struct Builder {
    terms: Option<Terms>,
    index: HashMap<String, usize>,
    requests: Vec<Request>,
    faults: Vec<Fault>,
    permits: Vec<(u64, u64)>,
    excuses: Vec<Excuse>,
}

impl Builder {
    fn call(&mut self, event: &Event) -> Result<(), Malformed> {
        let What::Call { id, deadline_ms, server } = &event.what else { return Ok(()) };
        if self.index.insert(id.clone(), self.requests.len()).is_some() {
            return Err(Malformed(format!("{id} is called twice")));
        }
        self.requests.push(Request {
            id: id.clone(),
            called: event.t,
            deadline: event.t.saturating_add(deadline_ms.saturating_mul(MS)),
            server: server.clone(),
            ends: Vec::new(),
            takes: Vec::new(),
            replies: Vec::new(),
        });
        Ok(())
    }

    fn rest(&mut self, event: Event) -> Result<(), Malformed> {
        let Event { t, who, what } = event;
        match what {
            What::Call { .. } => {}
            What::Start(terms) => {
                if self.terms.replace(terms).is_some() {
                    return Err(Malformed("two start records".into()));
                }
            }
            What::Return { id, status, code, answer } => self.end(&id, t, How::Answered { status, code, answer })?,
            What::Leave { id } => self.end(&id, t, How::Left)?,
            What::Lost { id } => self.end(&id, t, How::Lost)?,
            What::Take { id } => self.request(&id, t)?.takes.push(t),
            What::Reply { id } => {
                let request = self.request(&id, t)?;
                if request.takes.is_empty() {
                    return Err(Malformed(format!("{who} replies to {id}, which no worker took")));
                }
                request.replies.push(t);
            }
            What::Fault { what } => self.faults.push(Fault { who, what, from: t, to: None }),
            What::Heal => {
                let fault = self.faults.iter_mut().rfind(|fault| fault.who == who && fault.to.is_none());
                fault.ok_or_else(|| Malformed(format!("{who} is healed without a fault")))?.to = Some(t);
            }
            What::Permits { size } => self.permits.push((t, size)),
            What::Excuse(excuse) => {
                if excuse.from > excuse.to {
                    return Err(Malformed(format!("an excuse ends before it begins: {excuse:?}")));
                }
                self.excuses.push(excuse);
            }
        }
        Ok(())
    }

    fn end(&mut self, id: &str, t: u64, how: How) -> Result<(), Malformed> {
        self.request(id, t)?.ends.push(End { t, how });
        Ok(())
    }

    fn request(&mut self, id: &str, t: u64) -> Result<&mut Request, Malformed> {
        let index = *self.index.get(id).ok_or_else(|| Malformed(format!("{id} was never called")))?;
        let request = &mut self.requests[index];
        if t < request.called {
            return Err(Malformed(format!("{id} has a record of before its call")));
        }
        Ok(request)
    }
}

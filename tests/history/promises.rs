//! All promises but P3, request by request.

use std::collections::BTreeMap;

use crate::Violation;
use crate::history::{End, History, How, MS, Request};

/// P1: an answer comes at most so long after the deadline.
const LATE_MAX: u64 = 1_000 * MS;
/// P9: service is back so long after the end of a fault.
const BACK_MAX: u64 = 10_000 * MS;

/// So many requests to one server within that time cannot all be refused for want of permits, or be bad.
const ASKED_OFTEN: usize = 100;

/// What a history has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls.
    pub requests: usize,
    /// Answers by status.
    pub statuses: BTreeMap<u16, usize>,
    /// Clients that left.
    pub left: usize,
    /// Lost with their server.
    pub lost: usize,
    /// Tasks that a worker took, and how many of them not for the first time.
    pub takes: (usize, usize),
    /// Faults.
    pub faults: usize,
}

impl Counts {
    /// Of this history.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut counts = Self { requests: history.requests.len(), faults: history.faults.len(), ..Self::default() };
        for request in &history.requests {
            for end in &request.ends {
                match &end.how {
                    How::Answered { status, .. } => *counts.statuses.entry(*status).or_default() += 1,
                    How::Left => counts.left += 1,
                    How::Lost => counts.lost += 1,
                }
            }
            counts.takes.0 += request.takes.len();
            counts.takes.1 += request.takes.len().saturating_sub(1);
        }
        counts
    }
}

/// The violations of P1, P2, P4, P9 and P10.
#[must_use]
pub fn judge(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for request in &history.requests {
        one_answer_in_time(history, request, &mut found);
        own_answer(request, &mut found);
        once(request, &mut found);
    }
    found.extend(nothing_held(history));
    back_in_time(history, &mut found);
    found
}

fn one_answer_in_time(history: &History, request: &Request, found: &mut Vec<Violation>) {
    let id = &request.id;
    let latest = request.deadline.saturating_add(LATE_MAX);
    let mut add = |t, what: String| found.push(Violation { promise: "P1", t, what });
    let Some(end) = request.end() else {
        return add(latest, format!("{id} was never answered"));
    };
    if end.t > latest {
        let late_ms = (end.t - request.deadline) / MS;
        add(end.t, format!("{id} ended {late_ms} ms after its deadline: {:?}", end.how));
    }
    if end.how == How::Lost && !is_lost_with_its_server(history, request, end) {
        add(end.t, format!("{id} was lost, and its server was not killed"));
    }
    for second in &request.ends[1..] {
        add(second.t, format!("{id} ended twice: {:?}, then {:?}", end.how, second.how));
    }
}

fn is_lost_with_its_server(history: &History, request: &Request, end: &End) -> bool {
    let killed = request.server.as_deref().and_then(|server| history.killed(server));
    killed.is_some_and(|t| t <= end.t)
}

fn own_answer(request: &Request, found: &mut Vec<Violation>) {
    for end in &request.ends {
        let How::Answered { status, answer, .. } = &end.how else { continue };
        let what = match answer {
            Some(answer) if *answer != request.id => format!("{} got the answer of {answer}", request.id),
            None if *status == 200 => format!("{} got a 200 without its nonce", request.id),
            _ => continue,
        };
        found.push(Violation { promise: "P2", t: end.t, what });
    }
}

/// Tasks are done at least once, and more than once only where the history says why.
fn once(request: &Request, found: &mut Vec<Violation>) {
    for again in request.takes.iter().skip(1) {
        found.push(Violation { promise: "P10", t: *again, what: format!("{} was taken again", request.id) });
    }
}

fn nothing_held(history: &History) -> Option<Violation> {
    let ended = history.requests.iter().flat_map(|request| &request.ends).map(|end| end.t).max().unwrap_or(0);
    let what = match history.permits.last() {
        Some((t, _)) if *t < ended => "nobody looked at the permits after the last answer".to_owned(),
        None => "nobody looked at the permits".to_owned(),
        Some((_, 0)) => return None,
        Some((_, size)) => format!("{size} permits are held at the end"),
    };
    Some(Violation { promise: "P4", t: ended, what })
}

/// Every heal that is followed by no fault for long enough: somebody is served, and each server that is asked often
/// serves.
fn back_in_time(history: &History, found: &mut Vec<Violation>) {
    for fault in &history.faults {
        let Some(healed) = fault.to else { continue };
        let window = healed..=healed + BACK_MAX;
        let disturbed = history.faults.iter().any(|other| {
            let still = other.from <= healed && other.to.is_none_or(|to| to > healed);
            still || (other.from > healed && window.contains(&other.from))
        });
        if disturbed {
            continue;
        }
        let after = format!("within {} s after the {} of {}", BACK_MAX / MS / 1_000, fault.what, fault.who);
        let asked = history.requests.iter().filter(|request| window.contains(&request.called));
        let mut servers: BTreeMap<Option<&str>, (usize, bool)> = BTreeMap::new();
        for request in asked {
            let (calls, served) = servers.entry(request.server.as_deref()).or_default();
            *calls += 1;
            *served |= request.ends.iter().any(|end| is_200(end) && window.contains(&end.t));
        }
        if !servers.values().any(|(_, served)| *served) {
            found.push(Violation { promise: "P9", t: healed, what: format!("no 200 {after}") });
            continue;
        }
        for (server, (calls, _)) in servers.iter().filter(|(_, (calls, served))| *calls >= ASKED_OFTEN && !served) {
            let what = format!("{} gave no 200 to {calls} requests {after}", server.unwrap_or("a server"));
            found.push(Violation { promise: "P9", t: healed, what });
        }
    }
}

fn is_200(end: &End) -> bool {
    matches!(end.how, How::Answered { status: 200, .. })
}

//! A good history, and every kind of violation planted into it: each has to be found, by its own promise and no other.

use thousandx_history::event::parse;
use thousandx_history::history::Malformed;
use thousandx_history::{Report, check};

/// Two permits, three requests: two are served, the third is refused while both permits are held.
const GOOD: &str = r#"
{"t":0,"who":"driver","event":"start","capacity":2,"lease_ms":9000,"release_ms":100}
{"t":1000000,"who":"client-1","event":"call","id":"a","deadline_ms":4000,"server":"server-1"}
{"t":1100000,"who":"client-2","event":"call","id":"b","deadline_ms":4000,"server":"server-1"}
{"t":2000000,"who":"worker-1","event":"take","id":"a"}
{"t":2100000,"who":"worker-1","event":"take","id":"b"}
{"t":3000000,"who":"client-3","event":"call","id":"c","deadline_ms":4000,"server":"server-1"}
{"t":4000000,"who":"client-3","event":"return","id":"c","status":429,"code":"capacity_reached","answer":"c"}
{"t":5000000,"who":"worker-1","event":"reply","id":"a"}
{"t":5100000,"who":"worker-1","event":"reply","id":"b"}
{"t":6000000,"who":"client-1","event":"return","id":"a","status":200,"answer":"a"}
{"t":6100000,"who":"client-2","event":"return","id":"b","status":200,"answer":"b"}
{"t":900000000,"who":"limiter","event":"permits","size":0}
"#;

fn judge(text: &str) -> Result<Report, Malformed> {
    check(parse("test", text)?)
}

/// The good history with one text in place of another, which has to be there.
fn with(old: &str, new: &str) -> Report {
    assert!(GOOD.contains(old), "{old} is in the history");
    judge(&GOOD.replace(old, new)).expect("a history")
}

/// The good history without the lines that hold a text, and with more.
fn edited(without: &str, more: &str) -> Report {
    let kept: Vec<_> = GOOD.lines().filter(|line| without.is_empty() || !line.contains(without)).collect();
    assert!(without.is_empty() || kept.len() < GOOD.lines().count(), "{without} is in the history");
    judge(&format!("{}\n{more}", kept.join("\n"))).expect("a history")
}

/// Found, and nothing else with it; what it says.
fn only(report: &Report, promise: &str) -> String {
    let promises: Vec<_> = report.violations.iter().map(|violation| violation.promise).collect();
    assert_eq!(promises, [promise], "{report:?}");
    assert!(!report.is_clean());
    report.violations[0].what.clone()
}

#[test]
fn the_good_history_is_clean() {
    let report = judge(GOOD).expect("a history");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.counts.requests, report.counts.takes, report.held_max), (3, (2, 0), 2));
    assert_eq!(report.counts.statuses, [(200, 2), (429, 1)].into());
}

#[test]
fn a_doubled_answer() {
    let again = r#"{"t":6200000,"who":"client-1","event":"return","id":"a","status":200,"answer":"a"}"#;
    assert!(only(&edited("", again), "P1").contains("a ended twice"));
}

#[test]
fn a_missing_answer() {
    assert!(only(&edited(r#""return","id":"b""#, ""), "P1").contains("b was never answered"));
}

#[test]
fn a_late_answer() {
    // Called at 1.1 ms with 4 s; one second more is allowed.
    let answered_at = |t: u64| {
        let later = GOOD.replace(r#""t":6100000"#, &format!(r#""t":{t}"#)).replace("900000000", "9000000000");
        judge(&later).expect("a history")
    };
    assert!(answered_at(5_001_100_000).is_clean());
    assert!(only(&answered_at(5_001_100_001), "P1").contains("b ended 1000 ms after its deadline"));
}

#[test]
fn a_swapped_answer() {
    let what = only(&with(r#""status":200,"answer":"a""#, r#""status":200,"answer":"b""#), "P2");
    assert!(what.contains("a got the answer of b"), "{what}");
    // Of a refusal too.
    assert!(only(&with(r#""answer":"c""#, r#""answer":"a""#), "P2").contains("c got the answer of a"));
}

#[test]
fn an_answer_without_a_nonce() {
    assert!(only(&with(r#""status":200,"answer":"a""#, r#""status":200,"answer":null"#), "P2").contains("without"));
}

#[test]
fn one_permit_too_many() {
    // The third is not refused: its worker has it beside the two others.
    let third = r#"
        {"t":3500000,"who":"worker-2","event":"take","id":"c"}
        {"t":5200000,"who":"worker-2","event":"reply","id":"c"}
        {"t":6200000,"who":"client-3","event":"return","id":"c","status":200,"answer":"c"}"#;
    let report = edited(r#""return","id":"c""#, third);
    assert_eq!(only(&report, "P3"), "3 held of 2: a, b, c");
    assert_eq!(report.held_max, 3);
}

#[test]
fn a_refusal_while_there_was_room() {
    // The second comes only after the refusal.
    let report = edited(
        r#""id":"b""#,
        r#"
        {"t":4100000,"who":"client-2","event":"call","id":"b","deadline_ms":4000,"server":"server-1"}
        {"t":6100000,"who":"client-2","event":"return","id":"b","status":200,"answer":"b"}"#,
    );
    assert_eq!(only(&report, "P3"), "c was refused while at most 1 of 2 were held");
}

#[test]
fn a_refusal_for_another_reason_says_nothing_about_permits() {
    let report =
        judge(&GOOD.replace("capacity_reached", "rate_exceeded").replace(r#""capacity":2"#, r#""capacity":9"#));
    assert!(report.expect("a history").is_clean());
}

#[test]
fn what_only_an_order_of_everything_rules_out() {
    // Each of the two refusals has its full moment, but both permits can be held only once, and the windows are apart.
    let text = r#"
        {"t":0,"who":"driver","event":"start","capacity":1,"lease_ms":9000,"release_ms":0}
        {"t":10,"who":"c","event":"call","id":"a","deadline_ms":4000}
        {"t":20,"who":"c","event":"call","id":"r1","deadline_ms":4000}
        {"t":30,"who":"c","event":"return","id":"r1","status":429}
        {"t":40,"who":"c","event":"call","id":"b","deadline_ms":4000}
        {"t":50,"who":"w","event":"take","id":"b"}
        {"t":60,"who":"w","event":"reply","id":"b"}
        {"t":70,"who":"c","event":"return","id":"b","status":200,"answer":"b"}
        {"t":80,"who":"c","event":"call","id":"r2","deadline_ms":4000}
        {"t":90,"who":"c","event":"return","id":"r2","status":429}
        {"t":100,"who":"c","event":"return","id":"a","status":503}
        {"t":110,"who":"l","event":"permits","size":0}"#;
    let report = judge(text).expect("a history");
    assert!(only(&report, "P3").contains("no order"), "{report:?}");
}

#[test]
fn a_leaked_permit() {
    assert!(only(&with(r#""size":0"#, r#""size":1"#), "P4").contains("1 permits are held"));
    assert!(only(&edited("permits", ""), "P4").contains("nobody looked"));
    assert!(only(&with(r#""t":900000000"#, r#""t":5000000"#), "P4").contains("after the last answer"));
}

#[test]
fn a_lost_request() {
    let lost = r#"{"t":6000000,"who":"client-1","event":"lost","id":"a"}"#;
    assert!(only(&edited(r#""return","id":"a""#, lost), "P1").contains("its server was not killed"));
    let killed = |server: &str, t: u64| {
        let kill = format!(r#"{{"t":{t},"who":"{server}","event":"fault","what":"kill"}}"#);
        edited(r#""return","id":"a""#, &format!("{lost}\n{kill}"))
    };
    assert!(killed("server-1", 5_900_000).is_clean());
    assert!(only(&killed("server-2", 5_900_000), "P1").contains("lost"));
    assert!(only(&killed("server-1", 6_000_001), "P1").contains("lost"));
}

#[test]
fn a_client_that_leaves_needs_no_answer_and_its_permit_may_be_free() {
    let left = r#"
        {"t":2200000,"who":"client-1","event":"leave","id":"a"}"#;
    let report = edited(r#""return","id":"a""#, left);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.counts.left, 1);
}

#[test]
fn a_task_done_twice() {
    let again = r#"{"t":5050000,"who":"worker-2","event":"take","id":"a"}"#;
    assert!(only(&edited("", again), "P10").contains("a was taken again"));
    let excuse =
        r#"{"t":0,"who":"driver","event":"excuse","promise":"P10","from":5000000,"to":6000000,"why":"worker killed"}"#;
    let report = edited("", &format!("{again}\n{excuse}"));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.excused.len(), report.excuses.len()), (1, 1));
}

#[test]
fn an_excuse_covers_its_promise_and_its_window_only() {
    let excused = |promise: &str, from: u64, to: u64| {
        let third = r#"
            {"t":3500000,"who":"worker-2","event":"take","id":"c"}
            {"t":5200000,"who":"worker-2","event":"reply","id":"c"}
            {"t":6200000,"who":"client-3","event":"return","id":"c","status":200,"answer":"c"}"#;
        let excuse = format!(
            r#"{{"t":0,"who":"driver","event":"excuse","promise":"{promise}","from":{from},"to":{to},"why":"flushall"}}"#
        );
        edited(r#""return","id":"c""#, &format!("{third}\n{excuse}"))
    };
    assert!(excused("P3", 3_000_000, 9_000_000).is_clean());
    assert!(excused("P1", 3_000_000, 9_000_000).breaks("P3"));
    assert!(excused("P3", 800_000_000, 900_000_000).breaks("P3"));
}

#[test]
fn service_that_does_not_come_back() {
    let fault = |healed: u64| {
        edited(
            "",
            &format!(
                r#"{{"t":100,"who":"redis","event":"fault","what":"stop"}}
               {{"t":{healed},"who":"redis","event":"heal"}}"#
            ),
        )
    };
    assert!(fault(500_000).is_clean());
    // One request is called after this.
    assert!(fault(1_050_000).is_clean());
    assert!(only(&fault(800_000_000), "P9").contains("no 200 within 10 s after the stop of redis"));
}

/// While another serves.
#[test]
fn a_server_that_does_not_come_back() {
    let asked = |times: u32| {
        let fault = r#"{"t":100,"who":"redis","event":"fault","what":"stop"}
            {"t":500000,"who":"redis","event":"heal"}"#;
        let refused = (0..times).map(|n| {
            let (call, back) = (2_000_000 + 10 * n, 2_000_005 + 10 * n);
            format!(
                r#"
                {{"t":{call},"who":"client-4","event":"call","id":"r{n}","deadline_ms":4000,"server":"server-2"}}
                {{"t":{back},"who":"client-4","event":"return","id":"r{n}","status":503,"answer":"r{n}"}}"#
            )
        });
        edited("", &format!("{fault}{}", refused.collect::<String>()))
    };
    assert!(asked(99).is_clean(), "too few to tell");
    assert!(only(&asked(100), "P9").contains("server-2 gave no 200 to 100 requests"));
}

#[test]
fn what_is_no_history() {
    let why = |text: &str| judge(text).expect_err("no history").0;
    let plus = |line: &str| why(&format!("{GOOD}{line}"));
    assert!(plus("{\"t\":1").contains("test:14"));
    assert!(plus(r#"{"t":7,"who":"x","event":"dance","id":"a"}"#).contains("dance"));
    assert!(plus(r#"{"t":7,"who":"x","event":"take"}"#).contains("id"));
    assert!(plus(r#"{"t":-7,"who":"x","event":"take","id":"a"}"#).contains("test:14"));
    assert!(plus(r#"{"t":7000000,"who":"x","event":"take","id":"z"}"#).contains("z was never called"));
    assert!(plus(r#"{"t":7,"who":"x","event":"take","id":"a"}"#).contains("before its call"));
    assert!(plus(r#"{"t":7000000,"who":"x","event":"reply","id":"c"}"#).contains("which no worker took"));
    assert!(plus(r#"{"t":7000000,"who":"x","event":"call","id":"a","deadline_ms":1}"#).contains("called twice"));
    assert!(plus(r#"{"t":7000000,"who":"x","event":"heal"}"#).contains("without a fault"));
    assert!(plus(r#"{"t":7,"who":"x","event":"excuse","promise":"P3","from":2,"to":1}"#).contains("before it begins"));
    assert!(plus(r#"{"t":7,"who":"x","event":"start","capacity":1,"lease_ms":1}"#).contains("two start"));
    assert!(why("").contains("no start"));
}

#[test]
fn the_program_prints_its_verdict_and_every_excuse() {
    let judged = |name: &str, text: &str| {
        let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
        std::fs::write(&file, text).expect("a file can be written");
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_check-history")).arg(file).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let excuse = r#"{"t":0,"who":"driver","event":"excuse","promise":"P3","from":0,"to":2000000,"why":"FLUSHALL"}"#;
    let (code, printed) = judged("good", &format!("{GOOD}{excuse}"));
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("excused: P3 from 0.000 s to 0.002 s: FLUSHALL"), "{printed}");
    assert!(printed.contains("verdict: clean"), "{printed}");
    let (code, printed) = judged("leaked", &GOOD.replace(r#""size":0"#, r#""size":1"#));
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("P4 at 0.006 s") && printed.contains("verdict: NOT clean"), "{printed}");
    assert_eq!(judged("torn", &GOOD[..GOOD.len() - 10]).0, Some(2));
}

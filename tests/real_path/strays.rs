//! Replies that nobody waits for: doubled, late, forged, for another instance, without an id. Each is counted, none
//! reaches a client, and the reader goes on.

use crate::SOON;
use crate::answers::STAGE;
use crate::support::http::Response;

/// How much `thousandx_replies_total` of this result grows by `act`, which has to be by `by`.
fn counted<T>(result: &str, by: f64, act: impl FnOnce() -> T) -> T {
    let series = format!("thousandx_replies_total{{result=\"{result}\"}}");
    let before = STAGE.server.metric(&series);
    let outcome = act();
    // Other tests of the same server add results of their own only where they are not looked at here.
    STAGE.server.wait_metric(&series, SOON, |now| now - before >= by - 0.5);
    let after = STAGE.server.metric(&series);
    assert!((after - before - by).abs() < 0.5, "{series} grew by {}", after - before);
    outcome
}

fn assert_times_out(answer: &Response) {
    assert_eq!((answer.status, answer.code().as_deref()), (504, Some("reply_timeout")), "{}", answer.text());
}

/// One test, because all of it reads the same counters.
#[test]
fn strays_are_counted_and_reach_nobody() {
    let twice = r#"{"do":"twice"}"#;
    assert_eq!(counted("duplicate", 1.0, || STAGE.post(twice)).text(), twice, "the first wins");

    assert_times_out(&counted("late", 1.0, || STAGE.post(r#"{"do":"late"}"#)));

    // An id of this instance and of a free slot that was never made: a real one with its last digit changed.
    let mut forged = STAGE.post("{}").header("x-request-id").expect("an id").to_owned();
    let last = if forged.pop() == Some('0') { '1' } else { '0' };
    forged.push(last);
    let asked = format!(r#"{{"do":"wrong-id","id":"{forged}"}}"#);
    assert_times_out(&counted("forged", 1.0, || STAGE.post(&asked)));

    // Another instance's: the first 20 bits are the instance.
    let first = if forged.starts_with('0') { "1" } else { "0" };
    let foreign = format!("{first}{}", &forged[1..]);
    let asked = format!(r#"{{"do":"wrong-id","id":"{foreign}"}}"#);
    assert_times_out(&counted("foreign", 1.0, || STAGE.post(&asked)));

    for unreadable in ["", "not-an-id", "00000000-0000-4000-8000-000000000000"] {
        let asked = format!(r#"{{"do":"wrong-id","id":"{unreadable}"}}"#);
        assert_times_out(&counted("unreadable", 1.0, || STAGE.post(&asked)));
    }
    assert_times_out(&STAGE.post(r#"{"do":"never"}"#));
    assert_eq!(STAGE.post("2").text(), "2", "the reader goes on");
}

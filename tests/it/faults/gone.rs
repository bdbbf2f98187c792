//! Too few members are left, or none: clients are told by the fail mode, and go on when members are back.

use std::time::Duration;

use crate::harness::instance::PATIENCE;
use crate::harness::python::Talk;
use crate::harness::{Lab, LabSetup, until_ok};

/// A client without a connection gives a call up after this long.
const WAIT: Duration = Duration::from_secs(2);

/// Asks until it goes well. A ZEO client looks for a server anew only every few seconds, and what it has
/// cached meanwhile may be too old for its first try.
#[track_caller]
fn does_again(client: &mut Talk, what: &str) {
    until_ok(&format!("`{what}` to go well again"), PATIENCE, || {
        let done = client.ask(what);
        (done.outcome == "ok").then_some(()).ok_or(done.outcome)
    });
}

/// Waits until a call ends like this: the daemon may not have noticed yet.
#[track_caller]
fn ends_with(client: &mut Talk, what: &str, outcome: &str) {
    until_ok(&format!("`{what}` to end with {outcome}"), PATIENCE, || {
        let done = client.ask(what);
        (done.outcome == outcome).then_some(()).ok_or(done.outcome)
    });
    let again = client.ask(what);
    assert_eq!(again.outcome, outcome, "{what}, asked again");
}

fn lose_all(settings: &'static str, below_the_least: impl Fn(&mut Talk)) {
    let mut lab = Lab::started(LabSetup {
        settings,
        ..LabSetup::default()
    });
    let mut client = Talk::start(&lab.instance.address, WAIT);
    client.does("write");

    // Below `min_optimal`.
    lab.servers[0].kill9();
    lab.instance.wait_member("zeo1", "degraded");
    below_the_least(&mut client);
    let run = lab.instance.run(&["status"]).ended(2);
    assert!(
        run.stdout
            .contains("1 of 2 members is optimal, 2 are needed"),
        "{run}"
    );
    lab.servers[0].start();
    lab.instance.wait_optimal();
    does_again(&mut client, "write");
    client.does("read");

    // None is left.
    for server in &mut lab.servers {
        server.kill9();
    }
    ends_with(&mut client, "read", "ClientDisconnected");
    ends_with(&mut client, "write", "ClientDisconnected");
    let details = lab.instance.details();
    assert_eq!(details["state"], "failed", "{details:#}");
    assert_eq!(details["serving"], false, "{details:#}");
    for server in &mut lab.servers {
        server.start();
    }
    lab.instance.wait_optimal();
    does_again(&mut client, "write");
    client.does("read");
    client.end();
    lab.compare(&[]);
}

#[test]
fn with_the_fail_mode_close_clients_are_disconnected_until_enough_members_are_back() {
    lose_all("min_optimal: 2\nfail_mode: close", |client| {
        ends_with(client, "read", "ClientDisconnected");
        ends_with(client, "write", "ClientDisconnected");
    });
}

#[test]
fn with_the_fail_mode_read_only_clients_read_until_enough_members_are_back() {
    lose_all("min_optimal: 2\nfail_mode: read-only", |client| {
        ends_with(client, "write", "ReadOnlyError");
        client.does("read");
    });
}

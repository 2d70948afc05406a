//! What can't be promised, each shown: docs/testing.md says what it means for users.
//!
//! Responsible for seeing that these limits are still there: a test that fails here is good news, and the pages that name
//! the limit are to be changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_testbed::proxy::EndTxn;
use crashmonitor_testbed::topics::{Isolation, NewRecord, Topics};
use crashmonitor_testbed::{Kafka, until_true};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// KIP-890: all transactions of a producer have one epoch where the client does not know the second version of the protocol.
/// A request that was lost with its connection, and was asked again with success, may arrive in the next transaction.
#[test]
fn a_late_copy_of_a_commit_commits_the_next_transaction() {
    let kafka = Kafka::builder().with_proxies().start();
    let topics = Topics::new(&kafka.bootstrap_through_proxies());
    topics.create_topic("results", 1, &[]);
    let committed = || topics.read_all("results", Isolation::ReadCommitted).len();

    let transaction = topics.transaction("worker", Duration::from_secs(600));
    transaction.produce("results", &[NewRecord::new("of the first")]);
    let proxy = kafka.proxies().next().unwrap();
    proxy.next_end(EndTxn::Late);
    // The client hears nothing, asks once more, and is told that all is well.
    transaction.commit_and_begin();
    assert_eq!((proxy.ends_met(), proxy.ends_passed()), (1, 0));
    until_true("the first to be committed", TIMEOUT, || committed() == 1);

    transaction.produce("results", &[NewRecord::new("of the second")]);
    assert_eq!(committed(), 1);
    proxy.pass_late_end();
    until_true("what nobody has committed to be committed", TIMEOUT, || committed() == 2);
    // The producer dies here: whoever follows it writes the second once more.
    drop(transaction);
}

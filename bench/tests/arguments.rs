//! What the program says, and how it exits, when it can't do what is asked.

use std::net::TcpListener;
use std::process::{Command, Output};

fn loadgen(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_crashmonitor-loadgen");
    Command::new(program).args(arguments).output().expect("the program starts")
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn error_of(arguments: &[&str], code: i32) -> String {
    let output = loadgen(arguments);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    text
}

#[test]
fn bad_arguments_are_named_and_exit_with_2() {
    let cases: [(&[&str], &str); 14] = [
        (&[], "--topic"),
        (&["--topic", "t", "--users", "0"], "users must be at least 1"),
        (&["--topic", "t", "--users", "many"], "--users"),
        (&["--topic", "t", "--word", ""], "word must not be empty"),
        (&["--topic", "t", "--late-share", "2"], "late-share must be between 0 and 1"),
        (&["--topic", "t", "--poison-share", "0.7", "--odd-share", "0.7"], "must not exceed 1"),
        (&["--topic", "t", "--event-rate", "0"], "event-rate must be at least 1"),
        (&["--topic", "t", "--start-time", "1", "--too-late-share", "0.1"], "start-time must be"),
        (&["--topic", "t", "--duration=-1"], "--duration"),
        (&["--topic", "t", "--compression", "rar"], "--compression"),
        (&["--topic", "t", "--window-ms", "0"], "--window-ms"),
        (&["--topic", "t", "--severity-weights", "1,1"], "not four numbers"),
        (&["--topic", "t", "--severity-weights", "0,0,0,0"], "severity weights must be at least 1"),
        (&["--topic", "t", "--brokers", "nowhere"], "broker address \"nowhere\" is not host:port"),
    ];
    for (arguments, message) in cases {
        let text = error_of(arguments, 2);
        assert!(text.contains(message), "{arguments:?}: {text}");
    }
}

#[test]
fn the_programs_own_errors_are_one_line() {
    let text = error_of(&["--topic", "t", "--users", "0"], 2);
    assert_eq!(text, "crashmonitor-loadgen: users must be at least 1\n");
}

#[test]
fn an_unreachable_broker_exits_with_1() {
    let brokers = format!("127.0.0.1:{}", closed_port());
    let text = error_of(&["--topic", "t", "--brokers", &brokers], 1);
    assert!(
        text.starts_with(&format!("crashmonitor-loadgen: no broker of {brokers} can be reached: ")),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_found_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/expected.jsonl");
    let brokers = format!("127.0.0.1:{}", closed_port());
    let text = error_of(&["--topic", "t", "--brokers", &brokers, "--expected", path.to_str().unwrap()], 2);
    assert!(text.contains("missing/expected.jsonl: No such file"), "{text}");
}

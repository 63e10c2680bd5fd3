//! USER, PASS, ACCT, REIN, QUIT (RFC 959 §4.1.1) and HOST (RFC 7151): who gets in, and how often they may try.

mod common;

use common::{PASSWORD, Server, USER};

#[test]
fn the_greeting_is_one_reply_220() {
    let server = Server::start();
    let mut client = server.connect();
    client.expect("NOOP", 200);
}

#[test]
fn the_right_password_opens_the_session() {
    let server = Server::start();
    let mut client = server.connect();
    client.expect("USER t", 331);
    client.expect("PASS pw", 230);
    client.expect("PWD", 257);
}

#[test]
fn verbs_may_be_written_in_any_case() {
    let server = Server::start();
    let mut client = server.connect();
    client.expect("user t", 331);
    client.expect("pAsS pw", 230);
    client.expect("pwd", 257);
}

#[test]
fn a_wrong_password_is_530_and_the_session_stays_shut() {
    let server = Server::start();
    let mut client = server.connect();
    client.login_as(USER, "wrong").expect(530);
    client.expect("PWD", 530);
}

#[test]
fn an_unknown_user_hears_the_same_as_one_with_a_wrong_password() {
    let server = Server::start();
    let mut client = server.connect();
    let wrong = client.login_as(USER, "wrong");
    let unknown = client.login_as("nobody-here", "wrong");
    assert_eq!(wrong.lines, unknown.lines);
}

#[test]
fn names_and_passwords_are_compared_exactly() {
    let server = Server::start();
    let mut client = server.connect();
    client.login_as("T", PASSWORD).expect(530);
    client.login_as(USER, "PW").expect(530);
    drop(client);
    let mut client = server.connect();
    client.login_as(USER, "pw ").expect(530);
    let mut client = server.connect();
    client.login_as(USER, "").expect(530);
    client.login_as(USER, "pw").expect(230);
}

#[test]
fn a_password_may_hold_spaces_and_colons() {
    let server = Server::build()
        .arguments(&["--user", "other:a b:c  d"])
        .start();
    let mut client = server.connect();
    client.login_as("other", "a b:c  d").expect(230);
}

#[test]
fn a_password_without_a_name_is_503() {
    let server = Server::start();
    server.connect().expect("PASS pw", 503);
}

#[test]
fn a_password_is_for_one_name_only_once() {
    let server = Server::start();
    let mut client = server.connect();
    client.login_as(USER, "wrong").expect(530);
    client.expect("PASS pw", 503);
}

#[test]
fn user_without_a_name_is_501() {
    let server = Server::start();
    server.connect().expect("USER", 501);
}

#[test]
fn guessing_ends_the_connection() {
    let server = Server::start();
    let mut client = server.connect();
    for attempt in 0.. {
        assert!(attempt < 20, "guessed {attempt} times");
        client.send("USER t");
        client.send("PASS wrong");
        let Some(reply) = client.reply_or_end() else {
            break;
        };
        if reply.code == 421 {
            break;
        }
        reply.expect_one_of(&[331, 530]);
        let Some(reply) = client.reply_or_end() else {
            break;
        };
        if reply.code == 421 {
            break;
        }
        reply.expect(530);
    }
    client.expect_end();
    server.client();
}

#[test]
fn a_failed_login_is_logged_with_the_peer_and_without_the_password() {
    let server = Server::start();
    server
        .connect()
        .login_as("mallory", "hunter2secret")
        .expect(530);
    let line = server.wait_for_log("mallory");
    assert!(line.contains("127.0.0.1"), "{line}");
    assert!(!server.log_text().contains("hunter2secret"));
}

#[test]
fn a_login_is_logged() {
    let server = Server::start();
    let client = server.client();
    let line = server.wait_for_log("logged in");
    assert!(line.contains("127.0.0.1"), "{line}");
    drop(client);
}

#[test]
fn a_name_in_the_log_cannot_forge_a_line() {
    let server = Server::start();
    let mut client = server.connect();
    client.command(b"USER a\x1b[31mb\tc\xff");
    client.command("PASS x").expect(530);
    eventually_logged(&server);
    fn eventually_logged(server: &Server) {
        let line = server.wait_for_log("[31mb");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn acct_is_superfluous_after_login() {
    let server = Server::start();
    server.client().expect("ACCT anything", 202);
}

#[test]
fn rein_returns_to_the_state_before_login() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("REIN", 220);
    client.expect("PWD", 530);
    client.login();
    client.expect("PWD", 257);
}

#[test]
fn rein_gives_nobody_more_time_for_the_login() {
    let server = Server::build()
        .configuration("[timeouts]\nlogin = 2\n")
        .with_flag_user()
        .start();
    let mut client = server.connect();
    let ended = (0..300).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let reply = client.command("REIN").expect_one_of(&[220, 421]);
        (reply.code == 421).then_some(reply)
    });
    ended
        .expect("the session goes on for ever")
        .says("login timeout");
    client.expect_end();
    // Only the end of a login begins the time for another.
    let mut client = server.client();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    client.expect("REIN", 220);
    client.login();
}

/// Guesses ten times in one go, and leaves the rest to `then`.
fn ten_guesses(server: &Server, then: impl FnOnce(common::Client)) {
    let mut client = server.connect();
    client.send_raw(format!("USER {USER}\r\nPASS wrong\r\n").repeat(10));
    then(client);
}

#[test]
fn a_client_that_closed_its_side_waits_for_its_failed_logins_like_any_other() {
    let server = Server::build()
        .configuration("login_attempts = 10\n[timeouts]\nlogin = 4\n")
        .with_flag_user()
        .start();
    // Ten waits of a second each are more than the time for the login: without them there would be a tenth failure.
    ten_guesses(&server, |mut client| {
        client.end_of_input();
        let last = std::iter::from_fn(|| client.reply_or_end()).last();
        last.unwrap().expect(421).says("login timeout");
    });
    // Of one that is gone altogether, nothing more is obeyed.
    ten_guesses(&server, |mut client| {
        client.reply().expect(331);
        client.reset();
    });
    server.wait_for_log("Login timeout");
    server.client();
    let log = server.log_text();
    assert!(!log.contains("(10 of 10)"), "{log}");
}

#[test]
fn user_after_login_asks_again() {
    let server = Server::build()
        .arguments(&["--user", "second:other"])
        .start();
    let mut client = server.client();
    let reply = client
        .command("USER second")
        .expect_one_of(&[331, 503, 530]);
    if reply.code == 331 {
        client.expect("PWD", 530);
        client.expect("PASS other", 230);
        client.expect("PWD", 257);
    } else {
        client.expect("PWD", 257);
    }
}

#[test]
fn quit_says_goodbye_and_closes() {
    let server = Server::start();
    let mut client = server.connect();
    client.expect("QUIT", 221);
    client.expect_end();
    let mut client = server.client();
    client.expect("QUIT", 221);
    client.expect_end();
}

#[test]
fn host_is_known_before_login_and_not_after() {
    let server = Server::start();
    let mut client = server.connect();
    client
        .command("HOST ftp.example.com")
        .expect_one_of(&[220, 504]);
    client.expect("HOST", 501);
    client.login();
    client.expect("HOST ftp.example.com", 503);
}

#[test]
fn there_is_no_anonymous_account_unless_asked_for() {
    let server = Server::start();
    server
        .connect()
        .login_as("anonymous", "me@example.com")
        .expect(530);
    server
        .connect()
        .login_as("ftp", "me@example.com")
        .expect(530);
}

#[test]
fn anonymous_enters_with_any_password_under_both_names() {
    let builder = Server::build();
    std::fs::write(builder.root().join("hello"), "hi").unwrap();
    let server = builder.arguments(&["--anonymous", "{root}"]).start();
    for name in ["anonymous", "ftp"] {
        let mut client = server.connect();
        client.login_as(name, "x@y").expect(230);
        client.expect("TYPE I", 200);
        assert_eq!(client.retr("hello"), b"hi");
    }
}

#[test]
fn each_user_of_the_command_line_has_their_own_password() {
    let server = Server::build()
        .arguments(&["--user", "second:other"])
        .start();
    server.connect().login_as("second", "other").expect(230);
    server.connect().login_as("second", PASSWORD).expect(530);
    server.connect().login_as(USER, "other").expect(530);
}

//! The table of verbs is whole: each verb is sent by a test, told by HELP and, where it is one of RFC 2389's features,
//! by FEAT.

mod common;

use std::fs;
use std::path::Path;

use common::Server;
use thriftpd::ftp::commands::{Feature, VERBS};

fn all_tests() -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = fs::read_dir(tests)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file());
    files
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn each_verb_is_sent_by_a_test() {
    let tests = all_tests();
    let sent = |verb: &str| {
        ["\"", " ", "\\n", "("].iter().any(|before| {
            ["\"", " ", "\\r"]
                .iter()
                .any(|after| tests.contains(&format!("{before}{verb}{after}")))
        })
    };
    // Those that are not offered are sent below.
    let offered = VERBS.iter().filter(|verb| verb.help != "is not offered");
    let missing: Vec<&str> = offered
        .map(|verb| verb.name)
        .filter(|verb| !sent(verb))
        .collect();
    assert_eq!(missing, [""; 0], "no test sends these");
}

#[test]
fn each_verb_has_help_and_names_its_standard() {
    let server = Server::start();
    let mut client = server.connect();
    for verb in VERBS {
        client
            .expect(format!("HELP {}", verb.name), 214)
            .says(verb.syntax)
            .says(verb.rfc);
        assert!(verb.syntax.starts_with(verb.name) && !verb.help.is_empty());
    }
}

#[test]
fn what_is_not_offered_says_so_and_is_not_in_help() {
    let server = Server::start();
    let mut client = server.connect();
    let help = client.expect("HELP", 214).text();
    for verb in VERBS.iter().filter(|verb| verb.help == "is not offered") {
        client.expect(format!("{} x", verb.name), 502);
        assert!(
            !help.split_whitespace().any(|word| word == verb.name),
            "{help}"
        );
    }
}

#[test]
fn feat_tells_each_feature_of_the_table() {
    let server = Server::start();
    let feat = server.connect().expect("FEAT", 211).text();
    for verb in VERBS {
        match verb.feature {
            Feature::None => {}
            Feature::Line(line) | Feature::Secure(line) => assert!(
                feat.lines().any(|told| told == format!(" {line}")),
                "{line}: {feat}"
            ),
            Feature::Algorithms => assert!(
                feat.lines()
                    .any(|told| told == " HASH SHA-256*;SHA-512;SHA-1;MD5;CRC32"),
                "{feat}"
            ),
            Feature::Facts => assert!(feat.contains("MLST type*;"), "{feat}"),
        }
    }
}

#[test]
fn replies_are_in_english_only() {
    let server = Server::start();
    let mut client = server.connect();
    client.expect("LANG EN", 200);
    client.expect("LANG en-GB", 200);
    client.expect("LANG", 200);
    client.expect("LANG de", 504);
}

//! The process that starts programs for a server which has confined itself.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use thriftpd::server::hooks::helper::Helper;
use thriftpd::server::sandbox::{self, Access, Plan, Violation};

#[test]
fn what_cannot_be_run_in_the_sandbox_is_run_beside_it_and_nothing_but_what_was_known() {
    let directory = tempfile::tempdir().unwrap();
    let (told, ended) = (
        directory.path().join("told"),
        directory.path().join("ended"),
    );
    let programs = ["/bin/cp"];
    let run = |program: usize, values: Vec<Vec<u8>>| {
        let Some(program) = programs.get(program) else {
            return;
        };
        let values = values
            .into_iter()
            .map(|value| String::from_utf8(value).unwrap());
        let mut command = Command::new(program);
        command.args(values).stdin(Stdio::null());
        assert!(command.status().unwrap().success());
    };
    let helper = Helper::start(run, || fs::write(&ended, "ended").unwrap()).unwrap();
    // On a thread of its own, for the sandbox is for good.
    let path = told.to_str().unwrap().to_owned();
    let confined = thread::spawn(move || {
        let plan = Plan {
            paths: vec![("/proc/fs".into(), Access::List)],
            ports: Some(vec![0..=0]),
            identities: false,
        };
        sandbox::enter(&plan, Violation::Refuse);
        assert!(Command::new("/bin/cp").status().is_err());
        helper.order(7, &[b"/etc/passwd", b"/tmp/never"]).unwrap();
        helper
            .order(0, &[b"/etc/hostname", path.as_bytes()])
            .unwrap();
        assert!(helper.order(0, &[&[b'x'; 1 << 20]]).is_err());
        assert!(helper.end(Duration::from_secs(20)));
    });
    confined.join().unwrap();
    assert_eq!(fs::read(told).unwrap(), fs::read("/etc/hostname").unwrap());
    assert_eq!(fs::read(ended).unwrap(), b"ended");
}

#[test]
fn it_ends_when_the_server_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let ended = directory.path().join("ended");
    let helper = Helper::start(|_, _| {}, || fs::write(&ended, "ended").unwrap()).unwrap();
    drop(helper);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !ended.exists() {
        assert!(std::time::Instant::now() < deadline, "the helper goes on");
        thread::sleep(Duration::from_millis(10));
    }
}

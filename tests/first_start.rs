//! The first start without a configuration: a user with a password made up, and URLs to paste.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use common::{run_client, the_program};

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_printed_url_works_and_the_password_is_kept_for_its_owner_only() {
    let home = tempfile::tempdir().unwrap();
    let served = home.path().join("served");
    std::fs::create_dir(&served).unwrap();
    let configuration = home.path().join("config/thriftpd.toml");
    std::fs::create_dir(configuration.parent().unwrap()).unwrap();
    std::fs::write(&configuration, "").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_thriftpd"))
        .arg("serve")
        .arg(&served)
        .args(["--listen", "127.0.0.1:0", "--config"])
        .arg(&configuration)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let printed = BufReader::new(child.stdout.take().unwrap());
    let _server = Ended(child);
    let mut lines = printed.lines().map_while(Result::ok);
    let fingerprint = lines
        .find_map(|line| line.strip_prefix("Certificate SHA-256 ").map(str::to_owned))
        .unwrap();
    assert_eq!(fingerprint.split(':').count(), 32);
    let url = lines.find(|line| line.contains("  ftp://backup:")).unwrap();
    assert!(lines.next().unwrap().starts_with("  ftpes://backup:"));
    let file = home.path().join("file");
    std::fs::write(&file, "contents").unwrap();
    let mut curl = the_program("curl", home.path());
    // The certificate that was made is the one that is shown.
    curl.args(["-sS", "--ssl-reqd", "--cacert"])
        .arg(home.path().join("config/certificate.pem"));
    curl.arg("-T").arg(&file).arg(url.trim());
    run_client(&mut curl, 30).succeeded();
    assert_eq!(std::fs::read(served.join("file")).unwrap(), b"contents");
    let kept = home.path().join("config/backup.password");
    assert_eq!(
        std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let password = std::fs::read_to_string(kept).unwrap();
    assert!(url.contains(password.trim()));
}

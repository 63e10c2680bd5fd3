//! Other people's clients over TLS.

mod common;

use common::{Finished, PASSWORD, Server, USER, assert_same_bytes, noise, run_client, the_program};

fn program(server: &Server, name: &str, arguments: &[&str]) -> Finished {
    run_client(the_program(name, server.home()).args(arguments), 100)
}

/// With an implicit listener as its second address.
fn server(more: &str) -> Server {
    Server::build()
        .configuration(&format!("[tls]\nimplicit = [\"127.0.0.1:0\"]\n{more}\n"))
        .with_flag_user()
        .start()
}

/// What a client that is told to believe the server's own certificate is given.
fn authority(server: &Server) -> String {
    let file = server.home().join("certificate.pem");
    file.to_str().unwrap().to_owned()
}

fn implicit_url(server: &Server, path: &str) -> String {
    format!("ftps://{USER}:{PASSWORD}@{}/{path}", server.addresses()[1])
}

#[test]
fn curl_lists_fetches_and_stores_in_both_versions_and_both_ways() {
    let server = server("");
    let contents = noise(2_000_000);
    let local = server.home().join("local");
    std::fs::write(&local, &contents).unwrap();
    let local = local.to_str().unwrap();
    let ca = authority(&server);
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        for url in [server.url("dir/file"), implicit_url(&server, "dir/file")] {
            let curl = |arguments: &[&str]| {
                let fixed = ["-sS", "--max-time", "60", "--ssl-reqd", "--cacert", &ca];
                program(&server, "curl", &[&fixed[..], version, arguments].concat()).succeeded()
            };
            curl(&["--ftp-create-dirs", "-T", local, &url]);
            assert_same_bytes(&server.read("dir/file"), &contents);
            assert_same_bytes(&curl(&[&url]).stdout, &contents);
            assert_eq!(curl(&["-r", "5-9", &url]).stdout, contents[5..=9]);
            let directory = url.strip_suffix("file").unwrap();
            assert!(curl(&[directory]).text().contains(" file\n"));
            std::fs::remove_dir_all(server.path("dir")).unwrap();
        }
    }
    // A certificate that nobody vouches for is the client's to refuse.
    program(&server, "curl", &["-sS", "--ssl-reqd", &server.url("")]).failed();
}

#[test]
fn curl_resumes_its_session_where_it_has_to() {
    let server = server("data_session_reuse = \"require\"");
    server.write("a", "first");
    server.write("b", "second");
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let url = server.url("{a,b}");
        let arguments = [&["-sSk", "--max-time", "60", "--ssl-reqd", &url], version].concat();
        assert_eq!(
            program(&server, "curl", &arguments).succeeded().text(),
            "firstsecond"
        );
    }
}

fn lftp(server: &Server, settings: &str, script: &str) -> Finished {
    let script = format!(
        "set net:timeout 20; set net:max-retries 2; set cmd:fail-exit yes; set xfer:log no; \
         set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set ssl:ca-file {}; {settings} \
         open -u {USER},{PASSWORD} ftp://localhost:{}; {script}",
        authority(server),
        server.port()
    );
    program(server, "lftp", &["-c", &script])
}

#[test]
fn lftp_mirrors_both_ways_with_eight_transfers_at_once() {
    for require in ["", "data_session_reuse = \"require\""] {
        let server = server(require);
        let up = server.directory("up");
        for number in 0..40 {
            std::fs::create_dir_all(up.join(format!("d{}", number % 4))).unwrap();
            let file = up.join(format!("d{}/f{number}", number % 4));
            std::fs::write(file, noise(number * 3001)).unwrap();
        }
        let down = server.directory("down");
        let [up, down] = [up, down].map(|path| path.to_str().unwrap().to_owned());
        lftp(
            &server,
            "",
            &format!("mirror -R --parallel=8 {up} all; mirror --parallel=8 all {down}"),
        )
        .succeeded();
        for number in 0..40 {
            let name = format!("d{}/f{number}", number % 4);
            let expected = noise(number * 3001);
            assert_same_bytes(&server.read(format!("all/{name}")), &expected);
            assert_same_bytes(&std::fs::read(format!("{down}/{name}")).unwrap(), &expected);
        }
        let log = server.log_text();
        assert!(
            log.contains("logged in TLS") && !log.contains("logged in in the clear"),
            "{log}"
        );
    }
}

#[test]
fn lftp_resumes_and_uses_active_connections() {
    let server = server("");
    let contents = noise(500_000);
    server.write("file", &contents);
    let dir = server.directory("local").to_str().unwrap().to_owned();
    std::fs::write(format!("{dir}/part"), &contents[..200_000]).unwrap();
    lftp(
        &server,
        "set ftp:passive-mode off;",
        &format!("reget file -o {dir}/part; put -c {dir}/part -o up; cls"),
    )
    .succeeded();
    assert_same_bytes(&std::fs::read(format!("{dir}/part")).unwrap(), &contents);
    assert_same_bytes(&server.read("up"), &contents);
    lftp(&server, "", &format!("pget -n 4 file -o {dir}/four")).succeeded();
    assert_same_bytes(&std::fs::read(format!("{dir}/four")).unwrap(), &contents);
}

#[test]
fn rclone_syncs_explicitly_and_implicitly() {
    let server = server("");
    let up = server.directory("up");
    for number in 0..12 {
        std::fs::write(up.join(format!("f{number}")), noise(number * 10_007)).unwrap();
    }
    let obscured = program(&server, "rclone", &["obscure", PASSWORD])
        .succeeded()
        .text();
    for (index, way) in ["--ftp-explicit-tls", "--ftp-tls"].into_iter().enumerate() {
        let port = server.addresses()[index].port().to_string();
        let rclone = |arguments: &[&str]| {
            let fixed = [
                "--ftp-host",
                "127.0.0.1",
                "--ftp-port",
                &port,
                "--ftp-user",
                USER,
                "--ftp-pass",
                obscured.trim(),
                "--ftp-no-check-certificate",
                way,
                "--retries",
                "1",
                "--config",
                "",
            ];
            program(&server, "rclone", &[arguments, &fixed[..]].concat())
        };
        let target = format!(":ftp:into{index}");
        rclone(&["sync", up.to_str().unwrap(), &target]).succeeded();
        rclone(&["check", "--download", up.to_str().unwrap(), &target]).succeeded();
        assert_same_bytes(&server.read(format!("into{index}/f11")), &noise(110_077));
    }
    assert!(
        !server.log_text().contains("in the clear; root"),
        "{}",
        server.log_text()
    );
}

const FTPLIB: &str = r"
import ftplib, io, ssl, sys
host, port, version, reuse, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == 'reuse', sys.argv[5]

class Ftp(ftplib.FTP_TLS):
    def ntransfercmd(self, command, rest=None):
        data, size = ftplib.FTP.ntransfercmd(self, command, rest)
        session = self.sock.session if reuse else None
        data = self.context.wrap_socket(data, server_hostname=self.host, session=session)
        if reuse:
            assert data.session_reused, 'the session was not resumed'
        return data, size

context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
ftp = Ftp(context=context, timeout=20)
ftp.connect(host, port)
ftp.login('t', 'pw')
ftp.prot_p()
contents = bytes(range(256)) * 3000
for number in range(12):
    ftp.storbinary(f'STOR {version}{number}', io.BytesIO(contents[number:]))
    got = io.BytesIO()
    ftp.retrbinary(f'RETR {version}{number}', got.write)
    assert got.getvalue() == contents[number:]
assert len(ftp.nlst()) >= 12
lines = []
ftp.storlines('STOR text', io.BytesIO(b'a\nb\n'))
ftp.retrlines('RETR text', lines.append)
assert lines == ['a', 'b'], lines
ftp.quit()
";

#[test]
fn ftplib_works_with_and_without_resumed_sessions() {
    for (require, reuse) in [("", "fresh"), ("data_session_reuse = \"require\"", "reuse")] {
        let server = server(require);
        let port = server.port().to_string();
        for version in ["TLSv1_2", "TLSv1_3"] {
            let ca = authority(&server);
            let arguments = ["-c", FTPLIB, "localhost", &port, version, reuse, &ca];
            program(&server, "python3", &arguments).succeeded();
        }
    }
}

const BASIC_FTP: &str = r"
const { Client } = require(process.argv[1]);
const { Readable, Writable } = require('stream');
// Since 2026 Node resumes sessions only with the host that they were made with (CVE-2026-48934). That of a data connection is
// told to it with these options alone; where the control connection is encrypted from its first byte basic-ftp adds none.
const host = process.argv[4] ? { host: '127.0.0.1' } : {};
(async () => {
    for (const secure of [true, 'implicit']) {
        for (const version of ['TLSv1.2', 'TLSv1.3']) {
            const client = new Client(20000);
            await client.access({
                host: '127.0.0.1', port: Number(process.argv[secure === true ? 2 : 3]), user: 't', password: 'pw', secure,
                secureOptions: { ...host, rejectUnauthorized: false, minVersion: version, maxVersion: version },
            });
            const contents = Buffer.alloc(300000, version);
            for (let number = 0; number < 12; number++) {
                await client.uploadFrom(Readable.from([contents]), 'js' + number);
                const got = [];
                await client.downloadTo(new Writable({ write(chunk, _, done) { got.push(chunk); done(); } }), 'js' + number);
                if (!Buffer.concat(got).equals(contents)) throw new Error('contents differ');
            }
            if ((await client.list()).length < 12) throw new Error('the listing is short');
            client.close();
        }
    }
})().catch(error => { console.error(error); process.exit(1); });
";

#[test]
fn basic_ftp_works_on_node() {
    for (require, with_host) in [("", ""), ("data_session_reuse = \"require\"", "with host")] {
        let server = server(require);
        let package = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/target/clients/node_modules/basic-ftp"
        );
        assert!(
            std::path::Path::new(package).is_dir(),
            "basic-ftp is not there: run scripts/test, which fetches it"
        );
        let [explicit, implicit] = [0, 1].map(|index| server.addresses()[index].port().to_string());
        let arguments = ["-e", BASIC_FTP, package, &explicit, &implicit, with_host];
        program(&server, "node", &arguments).succeeded();
    }
}

#[test]
fn five_gibibytes_arrive_whole() {
    const SIZE: u64 = 5 << 30;
    let server = server("");
    let file = std::fs::File::create(server.path("large")).unwrap();
    file.set_len(SIZE).unwrap();
    // Ends that are not zero, on both sides of 4 GiB.
    for at in [0, (4 << 30) - 3, SIZE - 7] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"landmark"[..7].as_ref(), at).unwrap();
    }
    let script = format!(
        "curl -sSk --ssl-reqd {} | cmp - {} && curl -sSk --ssl-reqd -r {}- {} | tail -c 7",
        server.url("large"),
        server.path("large").display(),
        SIZE - 100,
        server.url("large")
    );
    let said = run_client(the_program("sh", server.home()).args(["-c", &script]), 110).succeeded();
    assert_eq!(said.text(), "landmar");
    // And some of it the other way.
    let script = format!(
        "tail -c {} {} | curl -sSk --ssl-reqd -T - {}",
        64 << 20,
        server.path("large").display(),
        server.url("up")
    );
    run_client(the_program("sh", server.home()).args(["-c", &script]), 60).succeeded();
    assert_eq!(server.path("up").metadata().unwrap().len(), 64 << 20);
}

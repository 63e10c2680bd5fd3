//! Patterns that are made to take for ever.

use crate::scene::{Case, Scene, case};

/// Lists with a pattern in every way: it is answered, and the session goes on.
fn pattern(name: &'static str, pattern: impl Fn() -> String + 'static) -> Case {
    case(name, move |scene| {
        furnish(scene);
        for verb in ["LIST", "NLST", "LIST -R"] {
            list(scene, &format!("{verb} {}", pattern()));
        }
        let codes = [211, 212, 213, 500, 550, 553];
        scene
            .client
            .command(format!("STAT {}", pattern()))
            .expect_one_of(&codes);
    })
}

/// The same for a pattern that looks at as much as any may: links back to the root double the work with every star.
fn costly(name: &'static str, pattern: impl Fn() -> String + 'static) -> Case {
    case(name, move |scene| {
        furnish(scene);
        list(scene, &format!("NLST {}", pattern()));
    })
}

fn list(scene: &mut Scene, line: &str) {
    let (bytes, reply) = scene.client.download(line);
    reply.expect_one_of(&[226, 500, 550, 553]);
    assert!(bytes.len() < 1 << 20, "{} bytes", bytes.len());
}

/// Directories that are many enough for their square to be too much.
const CROWD: usize = 400;

/// Lists with a pattern among them: the reply is this one, and the memory of the server does not swell by it. With 226 no
/// more than each of them is shown.
fn bomb(name: &'static str, code: u16, pattern: impl Fn() -> String + 'static) -> Case {
    case(name, move |scene| {
        for n in 0..CROWD {
            scene.server.write(format!("crowd/d{n:03}/in/file"), "");
        }
        scene.client.expect("CWD crowd", 250);
        let most = scene.server.peak_bytes();
        let most = most.max(scene.server.resident_bytes() + ROOM);
        for verb in ["NLST", "LIST", "LIST -R"] {
            let line = format!("{verb} {}", pattern());
            let (bytes, reply) = scene.client.download(&line);
            reply.expect(code);
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            assert!(lines <= CROWD, "{verb}: {lines} lines");
            assert_eq!(lines > 0, code == 226, "{verb}: {lines} lines");
        }
        let peak = scene.server.peak_bytes();
        assert!(peak <= most, "{peak} bytes of memory, not {most}");
    })
}

/// What one listing may take of the memory.
const ROOM: u64 = 32 << 20;

/// Names of many letters a, in many directories.
fn furnish(scene: &mut Scene) {
    let server = &scene.server;
    if server.exists(format!("{}0", "a".repeat(200))) {
        return;
    }
    for n in 0..40 {
        for m in 0..10 {
            server.write(format!("{}{n}/{}{m}", "a".repeat(200), "a".repeat(200)), "");
        }
    }
    scene.settle();
}

pub fn cases() -> Vec<Case> {
    vec![
        pattern("many stars and a letter that is nowhere", || {
            "*a".repeat(100) + "b"
        }),
        pattern("as many stars as a line holds", || "*a".repeat(1900) + "b"),
        pattern("stars alone", || "*".repeat(3000)),
        costly("stars in every component", || "*/".repeat(30) + "*"),
        costly("stars and dots", || "*/../".repeat(40) + "*"),
        costly("stars and the directory itself", || "*/./".repeat(40) + "*"),
        bomb("stars and ways back", 226, || "*/../*".into()),
        bomb("stars and many ways back", 226, || {
            "*/../".repeat(100) + "*"
        }),
        bomb("a long way and stars and ways back", 226, || {
            "./".repeat(1900) + "*/../*"
        }),
        bomb("a long detour and stars and ways back", 226, || {
            "d000/../".repeat(480) + "*/../*"
        }),
        bomb("a star and a long way on the spot", 226, || {
            "../crowd/*/".to_owned() + &"./".repeat(1900)
        }),
        bomb("a star and a long way to and fro", 550, || {
            "*/".to_owned() + &"in/../".repeat(650)
        }),
        bomb("a star and a way to and fro that costs little", 226, || {
            "*/".to_owned() + &"in/./././././../".repeat(100) + "in"
        }),
        pattern("question marks", || "?".repeat(3000)),
        pattern("sets without an end", || "[".repeat(3000)),
        pattern("sets of everything", || "[!x]".repeat(500)),
        pattern("ranges the wrong way round", || {
            "[z-a][\u{10ffff}-\0x01]".repeat(100).replace('\0', "")
        }),
        pattern("sets of many ranges", || format!("[{}]", "a-z".repeat(900))),
        pattern("braces that are none here", || "{a,b}".repeat(300)),
        pattern("backslashes", || "\\".repeat(3001) + "*"),
        pattern("patterns that lead out", || "../*/../outside/*".into()),
        pattern("patterns for dots", || "/.*/.*/.*/.*".into()),
        pattern("sets of dots and slashes", || "[.][.]/outside/[/]*".into()),
        pattern("a home that is none here", || "~root/*".into()),
        case("patterns many at once", |scene| {
            furnish(scene);
            let mut sessions: Vec<_> = (0..6).map(|_| scene.server.client()).collect();
            let line = format!("LIST */{}b", "*a".repeat(50));
            for client in &mut sessions {
                let address = client.epsv_address();
                client.send(&line);
                drop(crate::common::data_connection(address));
            }
            scene.client.expect("NOOP", 200);
            for client in &mut sessions {
                while client.reply().code < 200 {}
            }
        }),
    ]
}

//! Trees that are too deep, and names that are too long or too many.

use crate::scene::{Case, case};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::File;

pub fn cases() -> Vec<Case> {
    vec![
        case("a tree as deep as paths are long", |scene| {
            let (mut depth, name) = (0, "d".repeat(50));
            // Step by step, for no path may be longer than 4095 bytes.
            while scene.client.command(format!("MKD {name}")).code == 257 {
                scene.client.expect(format!("CWD {name}"), 250);
                depth += 1;
                assert!(depth < 1000, "no end of it");
            }
            assert!(depth > 60, "only {depth} deep");
            scene
                .client
                .upload(
                    "STOR a-file-with-a-name-that-is-as-long-as-the-others-are",
                    b"x",
                )
                .expect(553);
            scene.client.expect("CWD /", 250);
            scene
                .client
                .download(format!("LIST -R {name}"))
                .1
                .expect(226);
            scene
                .client
                .download("LIST */*/*/*/*/*")
                .1
                .expect_one_of(&[226, 550]);
            scene.client.expect(format!("RMDA {name}"), 250);
            assert!(!scene.server.exists(&name));
        }),
        case("a tree deeper than any path", |scene| {
            // Only the host can make it: by going down.
            let mut at = File::open(scene.server.path("")).unwrap();
            for _ in 0..3000 {
                mkdirat(&at, "dddddddd", Mode::S_IRWXU).unwrap();
                let below = openat(&at, "dddddddd", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
                at = File::from(below);
            }
            drop(at);
            scene
                .client
                .download("LIST -R dddddddd")
                .1
                .expect_one_of(&[226, 550]);
            scene
                .client
                .download("NLST -R dddddddd")
                .1
                .expect_one_of(&[226, 550]);
            let removed = scene
                .client
                .command("RMDA dddddddd")
                .expect_one_of(&[250, 550, 553]);
            if removed.code != 250 {
                let path = scene.server.path("dddddddd");
                assert!(
                    std::process::Command::new("rm")
                        .arg("-rf")
                        .arg(path)
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }),
        case("paths of every length around the limits", |scene| {
            for length in [254, 255, 256, 1000, 4000, 4090] {
                let name = "n".repeat(length);
                let codes: &[u16] = if length <= 255 { &[550] } else { &[553] };
                scene
                    .client
                    .command(format!("SIZE {name}"))
                    .expect_one_of(codes);
                scene
                    .client
                    .command(format!("CWD {}", "a/".repeat(length / 2)))
                    .expect_one_of(&[550, 553]);
            }
            scene
                .client
                .command(format!("SIZE {}", "x".repeat(5000)))
                .expect(500);
        }),
        case(
            "a directory of many names that share a beginning",
            |scene| {
                for n in 0..5000 {
                    scene
                        .server
                        .write(format!("same/{}{n}", "s".repeat(240)), "");
                }
                assert_eq!(
                    scene
                        .client
                        .list(format!("NLST same/{}", "*s".repeat(60) + "*7"))
                        .len(),
                    500
                );
                assert_eq!(
                    scene
                        .client
                        .list(format!("NLST same/{}", "*s".repeat(60) + "*x"))
                        .len(),
                    0
                );
            },
        ),
    ]
}

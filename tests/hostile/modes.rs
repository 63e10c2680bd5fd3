//! Set-user-ID bits, which clients never set and uploads never inherit; and hard links, by which a file inside is another
//! outside.

use crate::scene::{Case, SECRET, Scene, case};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

/// What no client may say to SITE CHMOD.
const REFUSED: &[&str] = &[
    "4755",
    "2755",
    "6755",
    "1777",
    "7777",
    "04755",
    "0004755",
    "10000",
    "100755",
    "37777777777",
    "777777777777777777777777",
    "888",
    "-1",
    "+755",
    "u+s",
    "0o755",
    "0x1ff",
    "755s",
    "",
    "1.0",
    "rwsr-xr-x",
    "\u{ff17}55",
];

const SPECIAL: u32 = 0o7000;

fn mode(scene: &Scene, name: &str) -> u32 {
    fs::metadata(scene.server.path(name))
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

fn with_mode(scene: &Scene, name: &str, mode: u32) {
    scene.server.write(name, "program");
    fs::set_permissions(scene.server.path(name), Permissions::from_mode(mode)).unwrap();
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = REFUSED
        .iter()
        .map(|&asked| {
            case(format!("SITE CHMOD {asked:?}"), move |scene| {
                with_mode(scene, "program", 0o755);
                scene
                    .client
                    .command(format!("SITE CHMOD {asked} program"))
                    .expect_one_of(&[501, 504]);
                scene
                    .client
                    .command(format!("MFF UNIX.mode={asked}; program"));
                assert_eq!(mode(scene, "program") & SPECIAL, 0);
                scene
                    .client
                    .command(format!("SITE CHMOD {asked} dir"))
                    .expect_one_of(&[501, 504]);
                scene.client.command(format!("MFF UNIX.mode={asked}; new"));
            })
        })
        .collect();
    cases.extend([
        case(
            "a set-user-ID program that is overwritten is none any more",
            |scene| {
                with_mode(scene, "program", 0o6755);
                scene.client.stor("program", b"hostile");
                assert_eq!(mode(scene, "program") & SPECIAL, 0);
            },
        ),
        case(
            "a set-user-ID program that is added to is none any more",
            |scene| {
                with_mode(scene, "program", 0o6755);
                scene.client.upload("APPE program", b"hostile").expect(226);
                assert_eq!(mode(scene, "program") & SPECIAL, 0);
            },
        ),
        case(
            "a set-user-ID program that is continued is none any more",
            |scene| {
                with_mode(scene, "program", 0o6755);
                scene.client.expect("REST 3", 350);
                scene.client.upload("STOR program", b"hostile").expect(226);
                assert_eq!(mode(scene, "program") & SPECIAL, 0);
            },
        ),
        case("SITE CHMOD takes set-user-ID bits away", |scene| {
            with_mode(scene, "program", 0o6755);
            scene.client.expect("SITE CHMOD 755 program", 200);
            assert_eq!(mode(scene, "program"), 0o755);
        }),
        case(
            "STOR over one of two hard links leaves the other as it was",
            |scene| {
                fs::hard_link(
                    scene.outside().join("dir/hidden"),
                    scene.server.path("hard"),
                )
                .unwrap();
                scene.client.stor("hard", b"hostile");
                assert_eq!(
                    fs::read(scene.outside().join("dir/hidden")).unwrap(),
                    SECRET
                );
                fs::remove_file(scene.server.path("hard")).unwrap();
            },
        ),
        case(
            "DELE, RNTO and RMDA take one of two hard links only",
            |scene| {
                let other = scene.outside().join("dir/hidden");
                fs::create_dir(scene.server.path("tree")).unwrap();
                for name in ["one", "two", "tree/three"] {
                    fs::hard_link(&other, scene.server.path(name)).unwrap();
                }
                scene.client.expect("DELE one", 250);
                scene.server.write("mine", "mine");
                scene.client.expect("RNFR mine", 350);
                scene.client.expect("RNTO two", 250);
                scene.client.expect("RMDA tree", 250);
                assert_eq!(fs::read(other).unwrap(), SECRET);
            },
        ),
        case(
            "an upload that is cut off leaves a hard link as it was",
            |scene| {
                fs::hard_link(
                    scene.outside().join("dir/hidden"),
                    scene.server.path("hard"),
                )
                .unwrap();
                let data = scene.client.epsv();
                scene.client.expect("STOR hard", 150);
                crate::scene::throw(&data, &[b'x'; 100_000]);
                crate::common::reset(data);
                scene.client.reply().expect(426);
                assert_eq!(scene.server.read("hard"), SECRET);
                fs::remove_file(scene.server.path("hard")).unwrap();
            },
        ),
        case(
            "new files and directories have no special bits, whatever their directory has",
            |scene| {
                fs::create_dir(scene.server.path("odd")).unwrap();
                fs::set_permissions(scene.server.path("odd"), Permissions::from_mode(0o3777))
                    .unwrap();
                scene.client.stor("odd/new", b"x");
                scene.client.expect("MKD odd/made", 257);
                assert_eq!(mode(scene, "odd/new") & SPECIAL, 0);
                // A directory inherits the group's bit from the one it is in (mkdir(2)).
                assert_eq!(mode(scene, "odd/made") & 0o5000, 0);
            },
        ),
    ]);
    cases
}

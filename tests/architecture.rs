//! The layers of the house, checked on its source: which room may know which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

/// Every source file by its path below `src`, without its comments and unit tests.
fn sources() -> BTreeMap<String, String> {
    fn walk(top: &Path, at: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(top, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let code = code
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                found.insert(name, code.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    walk(&top, &top, &mut found);
    assert!(found.len() > 30, "the sources are found");
    found
}

/// Module paths within the crate that a file names, such as `ftp::commands`, whichever way it writes them.
fn imports(file: &str, code: &str) -> BTreeSet<String> {
    let mut room: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if matches!(room.last(), Some(&"mod" | &"lib" | &"main")) {
        room.pop();
    }
    let mut found = BTreeSet::new();
    for (prefix, base) in [
        ("crate::", Vec::new()),
        ("super::", room[..room.len().saturating_sub(1)].to_vec()),
    ] {
        for (at, _) in code.match_indices(prefix) {
            let mut base = base.clone();
            let mut rest = &code[at + prefix.len()..];
            while let Some(further) = rest.strip_prefix("super::") {
                base.pop();
                rest = further;
            }
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
                .collect();
            let path: Vec<&str> = base
                .into_iter()
                .chain(name.split("::").filter(|part| !part.is_empty()))
                .collect();
            found.insert(path.join("::"));
            // A group: `use super::{a::b, c}`.
            if let Some(group) = rest[name.len()..].strip_prefix('{') {
                for member in group.split('}').next().unwrap().split(',') {
                    found.insert(format!("{}::{}", path.join("::"), member.trim()));
                }
            }
        }
    }
    found
}

fn offences(in_room: &str, forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, code) in sources()
        .iter()
        .filter(|(file, _)| file.starts_with(in_room))
    {
        for import in imports(file, code) {
            let import = import.trim_start_matches("::").to_owned();
            if forbidden
                .iter()
                .any(|room| import == *room || import.starts_with(&format!("{room}::")))
            {
                found.push(format!("{file} imports {import}"));
            }
        }
    }
    found
}

/// Rooms of one floor that know each other, in this direction only.
const NEIGHBOURS: [(&str, &str); 1] = [("accounts", "storage")];

/// The rooms by their floors, from the ground up: those of one floor do not know each other, and nobody knows one above.
const FLOORS: [&[&str]; 7] = [
    &["os"],
    &["storage", "accounts", "tls", "observe"],
    &["config"],
    &["server"],
    &["service"],
    &["ftp"],
    &["cli"],
];

#[test]
fn the_protocol_knows_no_other_room() {
    let rooms = FLOORS.into_iter().flatten().copied();
    let others: Vec<&str> = rooms.filter(|room| *room != "ftp").collect();
    assert_eq!(offences("ftp/protocol/", &others), [""; 0]);
    let rest = ["ftp::commands", "ftp::control", "ftp::data", "ftp::session"];
    assert_eq!(offences("ftp/protocol/", &rest), [""; 0]);
}

#[test]
fn the_session_and_the_data_connection_know_no_verb() {
    let rooms = [
        "session",
        "connection",
        "control",
        "parameters",
        "patience",
        "data/",
    ];
    for room in rooms.map(|room| format!("ftp/{room}")) {
        assert_eq!(offences(&room, &["ftp::commands"]), [""; 0]);
    }
}

#[test]
fn the_system_is_touched_in_four_rooms_only() {
    for (file, code) in sources() {
        let may = ["os/", "server/", "storage/", "ftp/data/"]
            .iter()
            .any(|room| file.starts_with(room));
        // Not `std::os::unix::`.
        let code = code.replace("unix::", "");
        for call in ["nix::", "libc::", "unsafe "] {
            assert!(may || !code.contains(call), "{file} uses {call}");
        }
    }
    let with_unsafe: Vec<String> = sources()
        .into_iter()
        .filter(|(_, code)| code.contains("unsafe "))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(
        with_unsafe,
        ["os/system.rs", "storage/disk/system.rs"],
        "one small file a room, and it says why"
    );
}

#[test]
fn no_room_knows_one_above_it() {
    let rooms: BTreeSet<&str> = FLOORS.into_iter().flatten().copied().collect();
    let floor_of = |room: &str| FLOORS.iter().position(|floor| floor.contains(&room));
    let mut offences = BTreeSet::new();
    let mut seen = 0;
    for (file, code) in sources() {
        let room = file.split('/').next().unwrap();
        let Some(floor) = floor_of(room) else {
            assert!(!file.contains('/'), "{file} is in a room without a floor");
            continue;
        };
        for import in imports(&file, &code) {
            let other = import.split("::").next().unwrap_or_default();
            if other != room && rooms.contains(other) {
                seen += 1;
                let is_below = floor_of(other) < Some(floor);
                if !is_below && !NEIGHBOURS.contains(&(room, other)) {
                    offences.insert(format!("{file} imports {import}"));
                }
            }
        }
    }
    assert!(seen > 100, "imports are seen");
    assert!(offences.is_empty(), "{offences:#?}");
}

/// What a `use` names, one path for each member of its groups.
fn members(import: &str) -> Vec<String> {
    let Some((before, group)) = import.split_once('{') else {
        let path = import.split(" as ").next().unwrap();
        return vec![path.trim().to_owned()];
    };
    // Braces and words of other lines are no import.
    let Some(group) = group.rfind('}').map(|end| &group[..end]) else {
        return Vec::new();
    };
    let (mut depth, mut found, mut member) = (0, Vec::new(), String::new());
    for c in group.chars().chain([',']) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            let path = format!("{}{}", before.trim(), std::mem::take(&mut member).trim());
            found.extend(members(&path));
        } else {
            member.push(c);
        }
    }
    found
}

/// The module that a file is, such as `ftp::commands`.
fn module_of(file: &str) -> Vec<&str> {
    let mut module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if matches!(module.last(), Some(&"mod" | &"lib" | &"main")) {
        module.pop();
    }
    module
}

/// The files that each file's `use` lines name. A room that shows to others what lies within it does not use it.
fn files_imported(sources: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let inner = sources.keys().filter(|file| file.contains('/'));
    let by_module: BTreeMap<Vec<&str>, &str> =
        inner.map(|file| (module_of(file), file.as_str())).collect();
    let mut graph = BTreeMap::new();
    for (file, code) in sources {
        let imported: &mut BTreeSet<&str> = graph.entry(file.as_str()).or_default();
        for (at, word) in code.match_indices("use ") {
            let before = code[..at].rsplit('\n').next().unwrap().trim();
            let shows = before.starts_with("pub");
            if !(before.is_empty() || shows) {
                continue;
            }
            let import = code[at + word.len()..].split(';').next().unwrap();
            for path in members(import) {
                let mut steps: VecDeque<&str> = path.split("::").collect();
                let mut module = module_of(file);
                match steps[0] {
                    "super" => {}
                    "self" => drop(steps.pop_front()),
                    "crate" => {
                        steps.pop_front();
                        module.clear();
                    }
                    // A file of the room, or somebody else's crate.
                    first if by_module.contains_key(&[&module[..], &[first]].concat()) => {
                        if shows {
                            continue;
                        }
                    }
                    _ => continue,
                }
                while steps.front() == Some(&"super") {
                    steps.pop_front();
                    module.pop();
                }
                module.extend(steps);
                // What is named lies in the longest part that is a file.
                while !module.is_empty() {
                    if let Some(other) = by_module.get(&module) {
                        if other != file {
                            imported.insert(*other);
                        }
                        break;
                    }
                    module.pop();
                }
            }
        }
    }
    graph
}

/// The shortest way from a file back to itself.
fn ring<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut ways = VecDeque::from([vec![start]]);
    while let Some(way) = ways.pop_front() {
        for &next in &graph[way[way.len() - 1]] {
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back([&way[..], &[next]].concat());
            }
        }
    }
    None
}

#[test]
fn no_files_import_each_other_directly_or_in_a_ring() {
    let sources = sources();
    let graph = files_imported(&sources);
    for (file, other) in [
        ("ftp/session.rs", "ftp/control.rs"),
        ("ftp/mod.rs", "ftp/session.rs"),
        ("ftp/commands/transfer.rs", "storage/mod.rs"),
    ] {
        assert!(graph[file].contains(other), "{file} is seen to use {other}");
    }
    let rings: BTreeSet<String> = graph
        .keys()
        .filter_map(|file| ring(&graph, file))
        .map(|mut ring| {
            // The same ring is found from each of its files.
            let first = ring.iter().min().unwrap();
            let first = ring.iter().position(|file| file == first).unwrap();
            ring.rotate_left(first);
            ring.push(ring[0]);
            ring.join(" -> ")
        })
        .collect();
    assert!(rings.is_empty(), "these import each other: {rings:#?}");
}

#[test]
fn main_reads_like_a_summary() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(
        fs::read_to_string(top.join("src/main.rs"))
            .unwrap()
            .lines()
            .count()
            < 60
    );
}

/// What a word of the SECURITY section calls a test: the file of tests, its directory, or the module of the program.
fn test_files(room: &str) -> Vec<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![top.join("tests").join(format!("{room}.rs"))];
    if let Ok(directory) = fs::read_dir(top.join("tests").join(room)) {
        files.extend(directory.map(|entry| entry.unwrap().path()));
    }
    let module = room.replace("::", "/");
    files.push(top.join("src").join(format!("{module}.rs")));
    files.push(top.join("src").join(module).join("mod.rs"));
    let texts = files.iter().filter(|file| file.is_file());
    texts
        .map(|file| fs::read_to_string(file).unwrap())
        .collect()
}

#[test]
fn every_claim_of_the_readme_about_security_names_tests_that_exist() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let section = readme.split("\n## SECURITY\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let claims: Vec<(&str, &str)> = rows
        .filter_map(|row| row.trim_matches(['|', ' ']).rsplit_once(" | "))
        .filter(|(claim, _)| *claim != "claim")
        .collect();
    assert!(claims.len() > 20, "the claims are found");
    let mut missing = Vec::new();
    for (claim, shown_by) in claims {
        let words: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!words.is_empty(), "nothing shows: {claim}");
        let mut room = Vec::new();
        for word in words {
            // A room comes before its tests, the names of which are sentences; some are those of a macro.
            if !test_files(word).is_empty() {
                room = test_files(word);
            } else if !room.iter().any(|text| {
                text.contains(&format!("fn {word}()")) || text.contains(&format!(" {word}: "))
            }) {
                missing.push(word);
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}

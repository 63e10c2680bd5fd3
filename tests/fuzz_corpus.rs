//! The committed corpora of the fuzz targets, and inputs that once found something, played through the same functions as the
//! fuzzer uses, on any toolchain.

#[path = "fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut inputs: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

fn replay(wanted: impl Fn(&str) -> bool) {
    for (target, run) in targets::TARGETS.iter().filter(|(name, _)| wanted(name)) {
        let inputs = corpus(target);
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for (path, input) in inputs {
            if let Err(panic) = std::panic::catch_unwind(|| run(&input)) {
                eprintln!("{target} fell over {}", path.display());
                std::panic::resume_unwind(panic);
            }
        }
        run(b"");
    }
}

#[test]
fn no_input_of_the_corpora_breaks_a_parser_or_formatter() {
    replay(|target| target != "session");
}

#[test]
fn no_script_of_the_corpus_breaks_a_session() {
    struct Leaving;
    impl Drop for Leaving {
        fn drop(&mut self) {
            targets::leave();
        }
    }
    let _leaving = Leaving;
    replay(|target| target == "session");
}

#[test]
fn each_target_has_its_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/fuzz_targets");
    let mut programs: Vec<String> = fs::read_dir(programs)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    programs.sort();
    let mut targets: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(programs, targets);
}

//! `--help` and the manual pages.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use gpulock_testkit::print_skipped;
use tempfile::TempDir;

const COMMANDS: [&str; 13] = [
    "run",
    "ls",
    "inspect",
    "queue",
    "stats",
    "log",
    "reserve",
    "release",
    "force",
    "top",
    "exporter",
    "completions",
    "man",
];

fn gpulock(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gpulock")).args(args).output().unwrap()
}

fn printed(args: &[&str]) -> String {
    let output = gpulock(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_help_ends_with_exit_statuses_variables_and_examples() {
    let all: Vec<&[&str]> = COMMANDS.iter().map(std::slice::from_ref).collect();
    for command in [&[&[][..]], &all[..]].concat() {
        let help = printed(&[command, &["--help"]].concat());
        let mut rest = &*help;
        let mut sections = vec!["\nExit status:\n  0", "\nExamples:\n  "];
        if !["completions", "man"].contains(command.first().unwrap_or(&"")) {
            sections.insert(1, "\nEnvironment:\n  GPULOCK_URL");
        }
        for section in sections {
            let (_, after) = rest.split_once(section).unwrap_or_else(|| {
                panic!("{command:?}: no {section:?} in\n{rest}");
            });
            rest = after;
        }
        assert!(!help.contains("__"), "{help}");
        // The short help stays short.
        let short = printed(&[command, &["-h"]].concat());
        assert!(!short.contains("Exit status:"), "{short}");
    }
}

#[test]
fn the_examples_have_valid_options() {
    for command in COMMANDS {
        let help = printed(&[command, "--help"]);
        let examples = help.split_once("\nExamples:\n").unwrap().1;
        let lines = examples.lines().filter_map(|line| line.strip_prefix("    $ "));
        let name = format!("gpulock {command}");
        assert!(examples.contains(&name), "{help}");
        for line in lines.filter(|line| line.contains(&name)) {
            for option in line.split(' ').take_while(|word| !["--", "|"].contains(word)) {
                let is_option = option.starts_with("--") && option.len() > 2;
                assert!(!is_option || help.contains(&format!(" {option}")), "{line}");
            }
        }
    }
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let dir = TempDir::with_prefix("gpulock-man-").unwrap();
    let folder = dir.path().join("new");
    printed(&["man", folder.to_str().unwrap()]);
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut expected: Vec<_> = COMMANDS.map(|name| format!("gpulock-{name}.1")).to_vec();
    expected.push("gpulock.1".to_owned());
    expected.sort();
    assert_eq!(names, expected);
    for name in names {
        let page = fs::read_to_string(folder.join(&name)).unwrap();
        for section in
            ["\n.SH \"EXIT STATUS\"\n", "\n.SH EXAMPLES\n", "\n.SH \"SEE ALSO\"\n"]
        {
            assert!(page.contains(section), "{name}: no {section:?} in\n{page}");
        }
        assert!(!page.contains("EXTRA") && !page.contains("__"), "{page}");
        check_rendered(&folder.join(&name));
    }
}

/// Renders the page as a user sees it.
fn check_rendered(page: &Path) {
    let output = Command::new("man")
        .args(["--warnings", "-l"])
        .arg(page)
        .env("MANWIDTH", "80")
        .env("LC_ALL", "C.UTF-8")
        .output();
    let Ok(output) = output else {
        print_skipped("man is not installed (apt install man-db)");
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    for section in ["\nNAME\n", "\nEXIT STATUS\n", "\nEXAMPLES\n", "\nSEE ALSO\n"] {
        assert!(text.contains(section), "{}: no {section:?} in\n{text}", page.display());
    }
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn an_unwritable_directory_is_reported() {
    let output = gpulock(&["man", "/dev/null/man"]);
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.starts_with("gpulock: failed to write the manual pages to /dev/null/man: ")
    );
}

//! The command `report` as people call it, on the samples.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The end of a block.
const END: &str = "<!-- end -->";

fn report(page: Option<&Path>) -> Output {
    let samples = ["redis", "valkey"]
        .map(|name| format!("{}/tests/sample-{name}.json", env!("CARGO_MANIFEST_DIR")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpulock-bench"));
    command.arg("report").args(samples);
    if let Some(page) = page {
        command.arg("--into").arg(page);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The lines that people wrote.
fn written(page: &str) -> Vec<&str> {
    let mut inside = false;
    let mut outside = |line: &&str| {
        inside = (inside || line.starts_with("<!-- bench:")) && *line != END;
        !inside
    };
    page.lines().filter(&mut outside).collect()
}

#[test]
fn without_a_page_all_tables_go_to_the_terminal() {
    let output = report(None);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for heading in
        ["Targets", "The pair, instructions", "Passing a lock on", "Many in line"]
    {
        assert!(said.lines().any(|line| line == heading), "{heading}: {said}");
    }
}

#[test]
fn the_page_of_the_docs_is_filled_and_its_words_stay() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("benchmarks.md");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    fs::copy(docs, &page).unwrap();
    let before = fs::read_to_string(&page).unwrap();
    let output = report(Some(&page));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let after = fs::read_to_string(&page).unwrap();
    assert!(after.contains("20,225 (20,185 to 20,286)"), "{after}");
    assert_eq!(written(&before), written(&after));
}

#[test]
fn a_page_that_asks_for_what_nobody_makes_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    let asked = format!("<!-- bench: targets -->\n{END}\n<!-- bench: pears -->\n{END}\n");
    fs::write(&page, &asked).unwrap();
    let output = report(Some(&page));
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("no block \"pears\""),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(fs::read_to_string(&page).unwrap(), asked);
}

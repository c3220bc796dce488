//! The subcommand `report` on sample runs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The end marker of a block.
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

/// The lines outside blocks.
fn outside_blocks(page: &str) -> Vec<&str> {
    let mut inside = false;
    let mut outside = |line: &&str| {
        inside = (inside || line.starts_with("<!-- bench:")) && *line != END;
        !inside
    };
    page.lines().filter(&mut outside).collect()
}

/// The first lines of all tables, and the first cells of all rows but those that depend on
/// the server program or on the versions of the run.
fn labels(page: &str) -> Vec<String> {
    let mut block = "";
    let mut labels = Vec::new();
    for (previous, line) in page.lines().zip(page.lines().skip(1)) {
        if let Some(name) = line.strip_prefix("<!-- bench: ") {
            block = name;
        }
        let varies = block.starts_with("head") || block.starts_with("breakdown");
        if previous.is_empty() && line.starts_with('|') {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            labels.push(cells.join("|"));
        } else if line.starts_with('|') && !varies {
            labels.push(line.split('|').nth(1).unwrap().trim().to_owned());
        }
    }
    labels
}

#[test]
fn without_a_page_all_tables_are_printed() {
    let output = report(None);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for heading in
        ["Targets", "Pair, instructions", "Hand-off", "Hand-off by queue length"]
    {
        assert!(printed.lines().any(|line| line == heading), "{heading}: {printed}");
    }
}

#[test]
fn the_blocks_of_the_docs_page_are_replaced_and_its_text_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("benchmarks.md");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    fs::copy(docs, &page).unwrap();
    let before = fs::read_to_string(&page).unwrap();
    let output = report(Some(&page));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let after = fs::read_to_string(&page).unwrap();
    assert!(after.contains("20,225 (20,185 to 20,286)"), "{after}");
    assert_eq!(outside_blocks(&before), outside_blocks(&after));
}

#[test]
fn the_docs_page_has_the_labels_that_the_program_writes() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("benchmarks.md");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let before = fs::read_to_string(docs).unwrap();
    fs::write(&page, &before).unwrap();
    assert!(report(Some(&page)).status.success());
    let after = fs::read_to_string(&page).unwrap();
    let before = labels(&before);
    for label in labels(&after) {
        // The sample runs have other releases than the page may have.
        let known = before.contains(&label);
        assert!(known, "{label:?} is not a label of docs/benchmarks.md");
    }
}

#[test]
fn a_page_with_an_unknown_block_is_left_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    let content =
        format!("<!-- bench: targets -->\n{END}\n<!-- bench: pears -->\n{END}\n");
    fs::write(&page, &content).unwrap();
    let output = report(Some(&page));
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("no block \"pears\""),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(fs::read_to_string(&page).unwrap(), content);
}

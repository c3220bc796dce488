//! The plots of `bench/plots.py`. Skipped without the Python environment of `make bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpulock_testkit::workspace;
use tempfile::TempDir;

const NAMES: [&str; 5] = ["pair", "hand-off", "fairness", "queue", "recovery"];

/// The Python of `make bench`; none if it was not installed.
fn python() -> Option<PathBuf> {
    let python = workspace().join("target/bench-venv/bin/python");
    let installed =
        Command::new(&python).args(["-c", "import matplotlib"]).output().ok()?;
    installed.status.success().then_some(python)
}

/// Draws the plots of a page, and returns the folder.
fn draw(python: &Path, page: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = workspace().join("bench/plots.py");
    let output =
        Command::new(python).arg(script).arg(page).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn docs_page() -> PathBuf {
    workspace().join("docs/benchmarks.md")
}

/// A copy of the page of the docs with the tables of these runs.
fn page_of(runs: &[&Path]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    fs::copy(docs_page(), &page).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_gpulock-bench"))
        .arg("report")
        .args(runs)
        .arg("--into")
        .arg(&page)
        .status()
        .unwrap();
    assert!(status.success());
    (folder, page)
}

fn sample(server: &str) -> PathBuf {
    workspace().join(format!("bench/tests/sample-{server}.json"))
}

#[test]
fn titles_summarize_the_results() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no matplotlib in target/bench-venv (make bench)");
        return;
    };
    let (_folder, page) = page_of(&[&sample("redis"), &sample("valkey")]);
    let plots = draw(&python, &page);
    let expected = [
        ("pair", "GPULOCK costs 1.54 to 1.61 times"),
        ("hand-off", "A hand-off takes 0.40 to 0.41 ms with GPULOCK,"),
        ("fairness", "Of eight workers, none waits for more than 8 hand-offs"),
        ("queue", "With 10,000 waiters a hand-off costs 1.32 to 1.43 times"),
        ("recovery", "within 2.4 ms in 99 of 100 cases"),
    ];
    for (name, title) in expected {
        // The outlines of each text follow a comment with the text.
        let plot = fs::read_to_string(plots.path().join(name).with_extension("svg"));
        let plot = plot.unwrap();
        for words in [title, "Redis 7.0.15", "Valkey 9.1.2"] {
            assert!(plot.contains(words), "{name} without {words:?}");
        }
        assert!(plot.contains("<path") && !plot.contains("<text"), "{name}");
    }
}

#[test]
fn plots_without_measurements_are_left_out() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no matplotlib in target/bench-venv (make bench)");
        return;
    };
    let text = fs::read_to_string(sample("redis")).unwrap();
    let mut run: serde_json::Value = serde_json::from_str(&text).unwrap();
    run["series"] = serde_json::json!([]);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("run.json");
    fs::write(&empty, run.to_string()).unwrap();
    let (_folder, page) = page_of(&[&empty]);
    let plots = draw(&python, &page);
    assert_eq!(fs::read_dir(plots.path()).unwrap().count(), 0);
}

#[test]
fn peers_are_optional() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no matplotlib in target/bench-venv (make bench)");
        return;
    };
    let text = fs::read_to_string(sample("redis")).unwrap();
    let mut run: serde_json::Value = serde_json::from_str(&text).unwrap();
    let series = run["series"].as_array_mut().unwrap();
    series.retain(|series| series["peer"] == "GPULOCK");
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("run.json");
    fs::write(&ours, run.to_string()).unwrap();
    let (_folder, page) = page_of(&[&ours]);
    let plots = draw(&python, &page);
    for name in ["hand-off", "fairness", "queue", "recovery"] {
        assert!(plots.path().join(name).with_extension("svg").exists(), "{name}");
    }
    let pair = plots.path().join("pair.svg");
    assert!(!pair.exists(), "without the native pair there is no ratio");
}

#[test]
fn the_committed_plots_show_the_committed_tables() {
    let page = fs::read_to_string(docs_page()).unwrap();
    let plot = |name: &str| {
        let path = workspace().join(format!("docs/benchmarks/{name}.svg"));
        fs::read_to_string(path).unwrap()
    };
    let block = |name: &str| {
        let (_, after) = page.split_once(&format!("<!-- bench: {name} -->")).unwrap();
        after.split_once("<!-- end -->").unwrap().0
    };
    let servers: Vec<&str> = block("head").lines().nth(2).unwrap().split('|').collect();
    for name in NAMES {
        let plot = plot(name);
        for server in &servers[2..servers.len() - 1] {
            assert!(plot.contains(server.trim()), "{name} without {server}");
        }
    }
    // Which of the columns of each server the plot shows.
    for (name, row, shown, group) in [
        ("pair", "GPULOCK, events off", 2, 2),
        ("hand-off", "GPULOCK", 2, 3),
        ("queue", "10,000", 3, 3),
    ] {
        let mut lines = block(name).lines();
        let row = lines.find(|line| line.starts_with(&format!("| {row} "))).unwrap();
        let cells: Vec<&str> = row.trim_matches('|').split('|').skip(1).collect();
        for cell in cells.chunks(group).flat_map(|cells| &cells[..shown]) {
            let median = cell.trim().split(' ').next().unwrap();
            assert!(plot(name).contains(median), "{name} without {median}");
        }
    }
}

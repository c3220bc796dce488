//! Each promise in docs/guarantees.md names the tests that show it, and SECURITY.md the files:
//! they must be there, or the evidence is none.

use std::fs;
use std::path::PathBuf;

use gpulock_testkit::workspace;

tests_without_server! {
    every_test_that_the_guarantees_name_is_there,
    every_file_of_tests_that_the_security_page_names_is_there,
}

/// What stands between single backquotes in a file of the repository.
fn quoted(file: &str) -> Vec<String> {
    let text = fs::read_to_string(workspace().join(file)).expect("a file of the docs");
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Where the tests of this name stand.
fn file_of(name: &str) -> Option<PathBuf> {
    ["tests", "crates/model/tests", "crates/chaos/tests"]
        .map(|folder| workspace().join(folder).join(name).with_extension("rs"))
        .into_iter()
        .find(|path| path.is_file())
}

fn every_test_that_the_guarantees_name_is_there() {
    let mut named = 0;
    for words in quoted("docs/guarantees.md") {
        let Some((file, test)) = words.split_once(": ") else { continue };
        if file == "file" {
            continue;
        }
        let path = file_of(file).unwrap_or_else(|| panic!("no tests in {file:?}"));
        let text = fs::read_to_string(path).expect("a file of tests");
        assert!(text.contains(&format!("fn {test}()")), "no test {words:?}");
        named += 1;
    }
    assert!(named > 20, "only {named} tests are named");
}

fn every_file_of_tests_that_the_security_page_names_is_there() {
    let files: Vec<String> = quoted("SECURITY.md")
        .into_iter()
        .filter(|words| words.ends_with(".rs"))
        .collect();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let path = workspace().join(&file);
        assert!(
            path.is_file() || workspace().join("tests").join(&file).is_file(),
            "{file}"
        );
    }
}

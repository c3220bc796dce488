//! Each guarantee in docs/guarantees.md names the tests that verify it, and SECURITY.md the
//! files. They must exist.

use std::fs;
use std::path::PathBuf;

use gpulock_testkit::workspace;

use crate::all_tests;

tests_without_server! {
    the_tests_named_in_the_guarantees_exist,
    the_test_files_named_in_the_security_policy_exist,
    no_test_uses_the_attribute_of_the_standard_harness,
}

/// The texts in single backquotes in a file of the repository.
fn quoted(file: &str) -> Vec<String> {
    let text = fs::read_to_string(workspace().join(file)).expect("a file of the docs");
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether this program has a test: `queue::fifo::name`.
fn is_server_test(path: &str) -> bool {
    all_tests().iter().any(|test| test.name() == path)
}

/// Whether a test file of another crate or of the Python package has a test.
fn is_other_test(file: &str, test: &str) -> bool {
    let folders = [
        ("crates/model/tests", "rs", format!("fn {test}()")),
        ("crates/chaos/tests", "rs", format!("fn {test}()")),
        ("cli/tests", "rs", format!("fn {test}()")),
        ("clients/python/tests", "py", format!("def {test}(")),
    ];
    folders.into_iter().any(|(folder, extension, signature)| {
        let path = workspace().join(folder).join(file).with_extension(extension);
        fs::read_to_string(path).is_ok_and(|text| text.contains(&signature))
    })
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
}

fn the_tests_named_in_the_guarantees_exist() {
    let mut named = 0;
    for text in quoted("docs/guarantees.md") {
        let exists = if let Some((file, test)) = text.split_once(": ")
            && is_identifier(file)
            && is_identifier(test)
        {
            is_other_test(file, test)
        } else if text.contains("::") && text.split("::").all(is_identifier) {
            is_server_test(&text)
        } else {
            continue;
        };
        // These are the two placeholders of the introduction.
        if ["topic::test", "file: test"].contains(&text.as_str()) {
            continue;
        }
        assert!(exists, "no test {text:?}");
        named += 1;
    }
    assert!(named > 20, "only {named} tests are named");
}

fn the_test_files_named_in_the_security_policy_exist() {
    let files: Vec<String> =
        quoted("SECURITY.md").into_iter().filter(|text| text.ends_with(".rs")).collect();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let folders = [workspace(), workspace().join("tests"), server_tests()];
        assert!(folders.iter().any(|folder| folder.join(&file).is_file()), "{file}");
    }
}

/// Without the standard harness the compiler drops such functions without a warning.
fn no_test_uses_the_attribute_of_the_standard_harness() {
    let attribute = ["#[", "test]"].concat();
    let mut folders = vec![server_tests()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("a folder of tests") {
            let path = entry.expect("a folder of tests").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("a file of tests");
                assert!(!text.contains(&attribute), "{}", path.display());
            }
        }
    }
}

fn server_tests() -> PathBuf {
    workspace().join("tests/server")
}

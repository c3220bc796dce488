//! The links between the Markdown documents, to their headings and to other files of the repository.
//! Links to the web are not checked.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use gpulock_testkit::workspace;

tests_without_server! {
    links_between_documents_have_targets,
    a_heading_has_the_anchor_that_github_gives_it,
}

/// Folders with documents of others, or with build products.
const SKIPPED: [&str; 5] = ["target", "node_modules", ".git", ".venv", "venv"];

fn links_between_documents_have_targets() {
    let documents = documents();
    let mut broken = vec![];
    let mut checked = 0;
    for (path, text) in &documents {
        for link in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = path.parent().expect("a folder");
            let target = if file.is_empty() { path.clone() } else { folder.join(file) };
            let anchored = || {
                let target = target.canonicalize().expect("an existing file");
                let text = documents.get(&target).expect("an anchor only in a document");
                anchors(text).iter().any(|it| it == anchor)
            };
            if !target.exists() || (!anchor.is_empty() && !anchored()) {
                broken.push(format!("{}: {link}", path.display()));
            }
            checked += 1;
        }
    }
    assert!(broken.is_empty(), "links without a target: {broken:#?}");
    assert!(checked > 100, "only {checked} links are found");
}

fn a_heading_has_the_anchor_that_github_gives_it() {
    let text = "# The `KEEP ms` option\n```\n# no heading\n```\n## Any, or several\n## Any, or several\n";
    assert_eq!(
        anchors(text),
        ["the-keep-ms-option", "any-or-several", "any-or-several-1"]
    );
}

/// All documents by their path.
fn documents() -> HashMap<PathBuf, String> {
    let mut found = HashMap::new();
    let mut folders = vec![workspace().canonicalize().expect("the workspace")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("a folder") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            let kind = entry.file_type().expect("the type of an entry");
            if kind.is_dir() && !SKIPPED.iter().any(|name| entry.file_name() == *name) {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|it| it == "md") {
                let text = fs::read_to_string(&path).expect("a document");
                found.insert(path, text);
            }
        }
    }
    found
}

/// The lines that are not in a fenced block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

/// The targets of the links in the repository: `[text](target)`, `[name]: target`.
fn links(text: &str) -> Vec<String> {
    let lines: Vec<&str> = prose(text).collect();
    // Code is between backquotes, and can span lines.
    let without_code: String = lines.join("\n").split('`').step_by(2).collect();
    let inline = without_code.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let defined =
        lines.iter().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
    let targets =
        inline.map(|(target, _)| target).chain(defined.map(|(_, target)| target));
    targets.filter(|it| !is_on_the_web(it)).map(str::to_owned).collect()
}

fn is_on_the_web(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

/// The anchors of the headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut anchors = vec![];
    for line in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        let slug: String = heading.trim().to_lowercase().chars().filter(kept).collect();
        let slug = slug.replace(' ', "-");
        let number = seen.entry(slug.clone()).and_modify(|it| *it += 1).or_default();
        anchors.push(if *number == 0 { slug } else { format!("{slug}-{number}") });
    }
    anchors
}

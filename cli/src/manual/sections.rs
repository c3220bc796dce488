//! The sections about exit statuses, environment variables and examples, in `--help` and in the
//! manual pages.

use roff::{Roff, bold, roman};

/// A term and its meaning.
pub(crate) type Entry = (&'static str, &'static str);

/// The sections of a command. Empty ones are omitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sections {
    /// Exit statuses, and what they mean.
    pub(crate) exit_statuses: &'static [Entry],
    /// Variables that the command reads or sets.
    pub(crate) environment: &'static [&'static [Entry]],
    /// What an example does, and its command lines.
    pub(crate) examples: &'static [Entry],
}

/// The statuses of every command that queries a server.
pub(super) const STATUSES: &[Entry] = &[
    ("0", "success"),
    ("1", "the server returned an error"),
    ("2", "invalid command line"),
    ("69", "the server was unreachable, or did not reply, for five seconds"),
];

/// The variables of every command that queries a server.
pub(crate) const SERVER: &[Entry] = &[
    ("GPULOCK_URL", "default of --url; hides a password in it from ps"),
    ("REDISCLI_AUTH", "the password, if no option and no URL has one"),
    ("SSL_CERT_FILE", "the certificate authorities to trust with TLS"),
    ("SSL_CERT_DIR", "a directory with such certificate authorities"),
];

impl Sections {
    /// The text at the end of `--help`.
    pub(crate) fn help(&self) -> String {
        let mut sections = Vec::new();
        for (title, entries) in [
            ("Exit status:", self.exit_statuses),
            ("Environment:", &self.environment.concat()),
        ] {
            if !entries.is_empty() {
                sections.push(format!("{title}\n{}", list(entries)));
            }
        }
        if !self.examples.is_empty() {
            let examples = self.examples.iter().map(|(what, lines)| {
                format!("  {what}:\n    $ {}", lines.replace('\n', "\n    $ "))
            });
            let examples = examples.collect::<Vec<_>>().join("\n\n");
            sections.push(format!("Examples:\n{examples}"));
        }
        sections.join("\n\n")
    }

    /// The sections of a manual page.
    pub(super) fn page(&self) -> Roff {
        let mut page = Roff::new();
        for (title, entries) in [
            ("EXIT STATUS", self.exit_statuses),
            ("ENVIRONMENT", &self.environment.concat()),
        ] {
            if !entries.is_empty() {
                page.control("SH", [title]);
            }
            for (term, meaning) in entries {
                page.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
            }
        }
        if !self.examples.is_empty() {
            page.control("SH", ["EXAMPLES"]);
        }
        for (what, lines) in self.examples {
            page.control("PP", []).text([roman(format!("{what}:"))]);
            page.control("RS", ["4"]).control("EX", []);
            for line in lines.lines() {
                page.text([roman(format!("$ {line}"))]);
            }
            page.control("EE", []).control("RE", []);
        }
        page
    }
}

/// The entries in two columns.
fn list(entries: &[Entry]) -> String {
    let width = entries.iter().map(|(term, _)| term.len()).max().unwrap_or_default();
    let line = |(term, meaning): &Entry| format!("  {term:width$}  {meaning}");
    entries.iter().map(line).collect::<Vec<_>>().join("\n")
}

//! A manual page.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use roff::{Roff, roman};

use super::sections::Sections;

/// Writes the page of a command to a directory.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(
    command: &Command,
    sections: &Sections,
    folder: &Path,
) -> io::Result<()> {
    let man =
        Man::new(command.clone()).source(concat!("gpulock ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    sections.page().to_writer(&mut page)?;
    see_also(command).to_writer(&mut page)?;
    if command.has_subcommands() {
        man.render_version_section(&mut page)?;
    }
    fs::write(folder.join(man.get_filename()), page)
}

/// From the page of `gpulock` to those of its commands, and back.
fn see_also(command: &Command) -> Roff {
    let mut pages: Vec<_> = command
        .get_subcommands()
        .map(|subcommand| format!("{}-{}(1)", command.get_name(), subcommand.get_name()))
        .collect();
    if pages.is_empty() {
        pages.push("gpulock(1)".to_owned());
    }
    let mut section = Roff::new();
    section.control("SH", ["SEE ALSO"]).text([roman(pages.join(", "))]);
    section
}

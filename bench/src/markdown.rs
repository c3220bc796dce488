//! Updates the generated blocks of a Markdown page: the text between
//! `<!-- bench: NAME -->` and `<!-- end -->`. The rest of the page stays unchanged.

use anyhow::{Context, Result, bail};

const END: &str = "<!-- end -->";

/// Returns the page with the content of each block replaced by `render(name)`.
pub(crate) fn fill_blocks(
    page: &str,
    render: impl Fn(&str) -> Result<String>,
) -> Result<String> {
    let mut filled = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        filled.push_str(line);
        filled.push('\n');
        if line == END {
            bail!("end marker without a block");
        }
        if let Some(name) = opened(line) {
            skip_content(&mut lines).with_context(|| format!("block {name:?}"))?;
            filled.push_str(&format!("\n{}\n\n{END}\n", render(name)?.trim()));
        }
    }
    Ok(filled)
}

/// The name of the block that this line opens.
fn opened(line: &str) -> Option<&str> {
    Some(line.strip_prefix("<!-- bench:")?.strip_suffix("-->")?.trim())
}

/// Skips the old content of a block and its end marker.
fn skip_content<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<()> {
    for line in lines {
        if line == END {
            return Ok(());
        }
        if opened(line).is_some() {
            bail!("another block starts inside");
        }
    }
    bail!("missing end marker")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(name: &str) -> Result<String> {
        Ok(format!("content of {name}\n"))
    }

    #[test]
    fn blocks_are_replaced_and_other_text_is_kept() {
        let page = "# Title\n\n<!-- bench: a -->\nold\nolder\n<!-- end -->\nwords\n\
                    <!-- bench: b -->\n<!-- end -->\n";
        let filled = "# Title\n\n<!-- bench: a -->\n\ncontent of a\n\n<!-- end -->\nwords\n\
                      <!-- bench: b -->\n\ncontent of b\n\n<!-- end -->\n";
        assert_eq!(fill_blocks(page, render).unwrap(), filled);
        assert_eq!(fill_blocks(filled, render).unwrap(), filled);
    }

    #[test]
    fn malformed_blocks_are_rejected() {
        let error = |page| format!("{:#}", fill_blocks(page, render).unwrap_err());
        assert_eq!(error("<!-- bench: a -->\n"), "block \"a\": missing end marker");
        assert_eq!(
            error("<!-- bench: a -->\n<!-- bench: b -->\n<!-- end -->\n"),
            "block \"a\": another block starts inside"
        );
        assert_eq!(error("<!-- end -->\n"), "end marker without a block");
    }

    #[test]
    fn an_unknown_block_is_an_error() {
        let unknown = |name: &str| bail!("no block {name:?}");
        assert!(fill_blocks("<!-- bench: c -->\n<!-- end -->\n", unknown).is_err());
    }
}

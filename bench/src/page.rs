//! Puts what the program makes into a page that people write: between
//! `<!-- bench: NAME -->` and `<!-- end -->` all is renewed, the rest stays. What stands in
//! a block is told elsewhere.

use anyhow::{Context, Result, bail};

const END: &str = "<!-- end -->";

/// The page with each of its blocks filled by `made`, which is asked with the block's name.
pub(crate) fn fill(page: &str, made: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut filled = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        filled.push_str(line);
        filled.push('\n');
        if line == END {
            bail!("an end without a block");
        }
        if let Some(name) = opened(line) {
            skip_old(&mut lines).with_context(|| format!("block {name:?}"))?;
            filled.push_str(&format!("\n{}\n\n{END}\n", made(name)?.trim()));
        }
    }
    Ok(filled)
}

/// The name of the block that this line opens.
fn opened(line: &str) -> Option<&str> {
    Some(line.strip_prefix("<!-- bench:")?.strip_suffix("-->")?.trim())
}

/// Passes over what stood in the block, with its end.
fn skip_old<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<()> {
    for line in lines {
        if line == END {
            return Ok(());
        }
        if opened(line).is_some() {
            bail!("another block begins in it");
        }
    }
    bail!("it has no end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str) -> Result<String> {
        Ok(format!("made of {name}\n"))
    }

    #[test]
    fn blocks_are_renewed_and_the_rest_stays() {
        let page = "# Title\n\n<!-- bench: a -->\nold\nolder\n<!-- end -->\nwords\n\
                    <!-- bench: b -->\n<!-- end -->\n";
        let filled = "# Title\n\n<!-- bench: a -->\n\nmade of a\n\n<!-- end -->\nwords\n\
                      <!-- bench: b -->\n\nmade of b\n\n<!-- end -->\n";
        assert_eq!(fill(page, said).unwrap(), filled);
        assert_eq!(fill(filled, said).unwrap(), filled);
    }

    #[test]
    fn a_page_that_is_not_whole_is_refused() {
        let told = |page| format!("{:#}", fill(page, said).unwrap_err());
        assert_eq!(told("<!-- bench: a -->\n"), "block \"a\": it has no end");
        assert_eq!(
            told("<!-- bench: a -->\n<!-- bench: b -->\n<!-- end -->\n"),
            "block \"a\": another block begins in it"
        );
        assert_eq!(told("<!-- end -->\n"), "an end without a block");
    }

    #[test]
    fn what_nobody_makes_is_an_error() {
        let nobody = |name: &str| bail!("no block {name:?}");
        assert!(fill("<!-- bench: c -->\n<!-- end -->\n", nobody).is_err());
    }
}

//! From a drawing to files. Letters become outlines of a font that comes along, so that an
//! image looks the same everywhere, also where no font is installed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use resvg::tiny_skia::{Pixmap, Size, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Indent, Options, Tree, WriteOptions};

/// What drawings have to call the font that comes along.
pub(crate) const FONT: &str = "Noto Sans";
/// More pixels than the drawing has, for sharp screens.
const PNG_SCALE: f32 = 1.5;

/// Writes a drawing to `STEM.svg` and `STEM.png`.
pub(crate) fn save(drawing: &str, stem: &Path) -> Result<()> {
    let tree = Tree::from_str(drawing, &with_font()).context("reading a drawing")?;
    let svg = tree.to_string(&outlines());
    write(&stem.with_extension("svg"), scalable(&svg, tree.size()).as_bytes())?;
    write(&stem.with_extension("png"), &png(&tree)?)
}

/// How exactly outlines are written.
fn outlines() -> WriteOptions {
    // A hundredth of a pixel is not to be seen and makes the file half as long.
    WriteOptions {
        coordinates_precision: 2,
        transforms_precision: 4,
        indent: Indent::None,
        ..WriteOptions::default()
    }
}

/// Says which part of the plane the drawing is: without that, not every browser makes it
/// smaller with the page.
fn scalable(svg: &str, size: Size) -> String {
    let view = format!(r#"<svg viewBox="0 0 {} {}" "#, size.width(), size.height());
    svg.replacen("<svg ", &view, 1)
}

/// The font, and nothing that the machine may have.
fn with_font() -> Options<'static> {
    let mut fonts = Database::new();
    for font in [notosans::REGULAR_TTF, notosans::BOLD_TTF] {
        fonts.load_font_data(font.to_vec());
    }
    Options { fontdb: Arc::new(fonts), ..Options::default() }
}

fn png(tree: &Tree) -> Result<Vec<u8>> {
    let size =
        tree.size().to_int_size().scale_by(PNG_SCALE).context("an empty drawing")?;
    let mut image =
        Pixmap::new(size.width(), size.height()).context("an empty drawing")?;
    let larger = Transform::from_scale(PNG_SCALE, PNG_SCALE);
    resvg::render(tree, larger, &mut image.as_mut());
    image.encode_png().context("encoding an image")
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_drawn_without_any_font_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let stem = folder.path().join("word");
        let drawing = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="100" height="40">
            <text x="10" y="30" font-family="{FONT}" font-size="24">word</text></svg>"#
        );
        save(&drawing, &stem).unwrap();
        let svg = fs::read_to_string(stem.with_extension("svg")).unwrap();
        assert!(svg.contains("<path") && !svg.contains("<text"), "{svg}");
        assert!(svg.starts_with(r#"<svg viewBox="0 0 100 40" "#), "{svg}");
        let image = Pixmap::load_png(stem.with_extension("png")).unwrap();
        assert_eq!((image.width(), image.height()), (150, 60));
        assert!(image.pixels().iter().any(|pixel| pixel.alpha() == u8::MAX));
    }
}

//! What all plots look like: a white card, so that they read on a dark page as well, with
//! the result as its title, and few colours. What is on a card is told by each plot.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::image::FONT;

/// Where one draws, in pixels.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Width of all cards.
pub(crate) const WIDTH: u32 = 1200;
/// From the card's edge to what is on it.
pub(crate) const MARGIN: i32 = 44;

/// Ours, the one strong colour.
pub(crate) const OURS: RGBColor = RGBColor(37, 84, 219);
/// Everybody else's.
pub(crate) const PEER: RGBColor = RGBColor(164, 174, 190);
/// Everybody else's where two have to be told apart.
pub(crate) const OTHER_PEER: RGBColor = RGBColor(201, 158, 98);
/// Words.
pub(crate) const INK: RGBColor = RGBColor(24, 32, 48);
/// Words that matter less.
pub(crate) const FAINT: RGBColor = RGBColor(99, 110, 128);
/// Lines to measure by.
pub(crate) const GRID: RGBColor = RGBColor(222, 227, 235);

/// Large letters, for the result.
const TITLE: f64 = 41.0;
/// Letters of names and numbers.
pub(crate) const LABEL: f64 = 29.0;
/// Letters of what explains.
pub(crate) const NOTE: f64 = 25.0;

const TITLE_LINE: i32 = 46;
const NOTE_LINE: i32 = 34;

/// A card: the result, how to read it, and below them what `paint` draws on so many pixels.
pub(crate) fn card(
    title: &[String],
    note: &str,
    height: u32,
    paint: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let lines = i32::try_from(title.len())?;
    let top = MARGIN + lines * TITLE_LINE + NOTE_LINE + MARGIN / 2;
    let whole = u32::try_from(top + MARGIN)? + height;
    let mut drawn = String::new();
    {
        let area =
            SVGBackend::with_string(&mut drawn, (WIDTH, whole)).into_drawing_area();
        let mut line = MARGIN + TITLE_LINE / 2;
        for text in title {
            words(&area, text, (MARGIN, line), bold(TITLE), INK, HPos::Left)?;
            line += TITLE_LINE;
        }
        words(&area, note, (MARGIN, line), plain(NOTE), FAINT, HPos::Left)?;
        let (_, below) = area.split_vertically(top);
        let (body, _) = below.split_vertically(i32::try_from(height)?);
        paint(&body.margin(0, 0, MARGIN, MARGIN))?;
        area.present()?;
    }
    Ok(on_white(&drawn, whole))
}

/// Puts a drawing on the card itself, whose round corners plotters does not draw.
fn on_white(drawn: &str, height: u32) -> String {
    let (right, bottom) = (WIDTH - 2, height - 2);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">
<rect x="1" y="1" width="{right}" height="{bottom}" rx="24" fill="#fff" stroke="#dee3eb" stroke-width="2"/>
{drawn}</svg>"##
    )
}

/// A font of this size.
pub(crate) fn plain(size: f64) -> FontDesc<'static> {
    FontDesc::new(FontFamily::Name(FONT), size, FontStyle::Normal)
}

/// The same, bold.
pub(crate) fn bold(size: f64) -> FontDesc<'static> {
    FontDesc::new(FontFamily::Name(FONT), size, FontStyle::Bold)
}

/// Writes words beside a point, which is at half their height.
pub(crate) fn words(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    font: FontDesc<'static>,
    color: RGBColor,
    side: HPos,
) -> Result<()> {
    let style = TextStyle::from(font).color(&color).pos(Pos::new(side, VPos::Center));
    // The middle that an SVG means is that of small letters; numbers are higher.
    Ok(area.draw_text(text, &style, (at.0, at.1 + 2))?)
}

/// A rectangle full of a colour.
pub(crate) fn block(
    area: &Area<'_>,
    from: (i32, i32),
    to: (i32, i32),
    color: RGBColor,
) -> Result<()> {
    Ok(area.draw(&Rectangle::new([from, to], color.filled()))?)
}

/// A line.
pub(crate) fn line(
    area: &Area<'_>,
    from: (i32, i32),
    to: (i32, i32),
    style: ShapeStyle,
) -> Result<()> {
    Ok(area.draw(&PathElement::new([from, to], style))?)
}

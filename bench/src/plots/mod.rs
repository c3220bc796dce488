//! The plots, one in a file, each with a title that says the result. Here is only which
//! there are; how they look is told in `card.rs`, how they become files in `image.rs`.

mod bars;
mod card;
mod fairness;
mod gap;
mod image;
mod in_line;
mod pair;
mod recovery;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::figures::Run;

/// Draws a card; none when its figures are missing.
type Draw = fn(&[Run]) -> Result<Option<String>>;

/// Their files' names, and who draws them.
const PLOTS: [(&str, Draw); 5] = [
    ("pair", pair::draw),
    ("hand-off", gap::draw),
    ("fairness", fairness::draw),
    ("in-line", in_line::draw),
    ("recovery", recovery::draw),
];

/// Draws all plots into a folder, as SVG and as PNG.
pub(crate) fn draw(runs: &[Run], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, draw) in PLOTS {
        match draw(runs)? {
            Some(card) => image::save(&card, &folder.join(name))?,
            None => eprintln!("no plot {name}: it was not measured"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{HAND_OFF, IN_LINE, OURS, PAIR, RECOVERY};
    use crate::sample;

    fn drawn(name: &str, runs: &[Run]) -> Option<String> {
        let (_, draw) = PLOTS.into_iter().find(|(known, _)| *known == name).unwrap();
        draw(runs).unwrap()
    }

    #[test]
    fn titles_say_the_result() {
        let runs = [sample::redis(), sample::valkey()];
        let told = [
            ("pair", "GPULOCK costs 1.54 to 1.61 times"),
            ("hand-off", "Passing a lock on takes 0.40 to 0.41 ms with GPULOCK,"),
            ("fairness", "Of eight workers none sits out more than 8 hand-offs"),
            ("in-line", "With 10,000 in line a hand-off costs 1.32 to 1.43 times"),
            ("recovery", "within 2.40 ms, 99 times of 100"),
        ];
        for (name, title) in told {
            let card = drawn(name, &runs).unwrap();
            for words in [title, "Redis 7.0.15", "Valkey 9.1.2"] {
                assert!(card.contains(words), "{name} without {words:?}");
            }
        }
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        for (name, _) in PLOTS {
            assert!(drawn(name, &[sample::empty()]).is_none(), "{name}");
        }
    }

    #[test]
    fn ours_alone_is_drawn_as_well() {
        for (name, part) in
            [("hand-off", HAND_OFF), ("in-line", IN_LINE), ("recovery", RECOVERY)]
        {
            let mut run = sample::redis();
            run.figures.retain(|figure| figure.part == part && figure.peer == OURS);
            assert!(drawn(name, &[run]).is_some(), "{name}");
        }
        let mut run = sample::redis();
        run.figures.retain(|figure| figure.part == PAIR && figure.peer == OURS);
        assert!(
            drawn("pair", &[run]).is_none(),
            "without the native pair there is no ratio"
        );
    }
}

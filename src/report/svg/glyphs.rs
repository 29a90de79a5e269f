//! Which characters the fonts that come with the program can draw. A picture of dots has no other font: what they lack is written as its
//! number, `[4E2D]`, rather than not at all.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use resvg::usvg::{self, FontResolver, fontdb::Database};

use crate::report::Figure;

use super::canvas::escaped;

/// The figure with characters only that the bundled fonts have; none where that is the figure itself.
pub(super) fn drawable(figure: &Figure) -> Option<Figure> {
    let mut figure = figure.clone();
    let mut characters = BTreeSet::new();
    figure.each_text(&mut |text| characters.extend(text.chars().filter(|c| !c.is_ascii())));
    let lacking = lacking(characters);
    if lacking.is_empty() {
        return None;
    }
    figure.each_text(&mut |text| {
        if text.contains(|c| lacking.contains(&c)) {
            *text = numbered(text, &lacking);
        }
    });
    Some(figure)
}

fn numbered(text: &str, lacking: &BTreeSet<char>) -> String {
    let mut numbered = String::new();
    for c in text.chars() {
        match lacking.contains(&c) {
            true => numbered.push_str(&format!("[{:04X}]", u32::from(c))),
            false => numbered.push(c),
        }
    }
    numbered
}

/// Those of the characters that the bundled fonts cannot draw: for which the library looks for another font when it lays out a text of each.
fn lacking(characters: BTreeSet<char>) -> BTreeSet<char> {
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let texts = characters
        .iter()
        .map(|c| format!("<text>{}</text>", escaped(&c.to_string())));
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1\" height=\"1\">{}</svg>",
        texts.collect::<String>()
    );
    let noted = Arc::clone(&asked);
    let mut options = super::options();
    options.font_resolver = FontResolver {
        select_font: FontResolver::default_font_selector(),
        select_fallback: Box::new(move |c, _: &[_], _: &mut Arc<Database>| {
            noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(c);
            None
        }),
    };
    if usvg::Tree::from_str(&svg, &options).is_err() {
        return characters;
    }
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    asked.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_that_the_fonts_lack_are_told_from_those_they_have() {
        let lacks = |text: &str| lacking(text.chars().collect());
        for had in ["naïve ñ ß", "αβΔ", "− … ° · “”"] {
            let lacking = lacks(had);
            assert!(lacking.is_empty(), "{had}: {lacking:?}");
        }
        for lacked in ["拒否", "Жя", "שלום", "سلام", "हाँ", "👍"] {
            let all: BTreeSet<char> = lacked.chars().collect();
            assert_eq!(lacks(lacked), all, "{lacked}");
        }
        let lacking = lacks("拒a");
        assert_eq!(lacking.len(), 1);
        assert_eq!(numbered("a拒b", &lacking), "a[62D2]b");
    }

    #[test]
    fn pictures_of_different_labels_differ_in_every_script() {
        let picture = |title: &str| {
            let figure = Figure {
                name: "name".to_string(),
                stage: "stage".to_string(),
                title: title.to_string(),
                note: String::new(),
                panels: Vec::new(),
                columns: 1,
            };
            crate::report::png(&figure).unwrap()
        };
        let labels = [
            "", "拒", "否", "ש", "ל", "س", "ل", "ह", "न", "👍", "👎", "é", "Ж",
        ];
        let pictures: BTreeSet<Vec<u8>> = labels.iter().map(|label| picture(label)).collect();
        assert_eq!(pictures.len(), labels.len());
    }
}

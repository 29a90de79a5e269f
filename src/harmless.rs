//! Text from outside as it may be shown.
//!
//! A terminal obeys control characters: an id may set its title, hide a line or write over another. Characters that turn the direction of
//! text or cannot be seen make one text look like another. All of these are shown as escapes (`\u{1b}`, `\u{202e}`), wherever they came
//! from; letters of every script stay as they are. Two selectors of a sign's form (U+FE0E and U+FE0F), which emoji have, stay, too.

use std::borrow::Cow;
use std::fmt::Write;

/// A text of several lines: line feeds and tabs stay.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_harmful(c) && !matches!(c, '\n' | '\t'), escape)
}

/// A text of one line, such as a name: line feeds and tabs are escaped, too.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_harmful, escape)
}

/// The first so many characters of a text that is longer.
pub(crate) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// Text in a picture or on a page, where joiners shape the letters of some scripts and do no harm: what controls a machine or turns
/// text around is escaped, the rest stays.
pub(crate) fn label(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_control(c) && !matches!(c, '\n' | '\t'), escape)
}

/// JSON text with the same value: in JSON such characters stand in strings only, which have an escape of their own.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let escape = |escaped: &mut String, c: char| {
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    };
    escaped(text, |c| is_harmful(c) && c != '\n', escape)
}

/// A text of several lines that this program has coloured: its colours (`ESC [ … m`) stay.
pub(crate) fn coloured(coloured: &str) -> String {
    let mut pieces = coloured.split('\u{1b}');
    let mut shown = text(pieces.next().unwrap_or_default()).into_owned();
    for piece in pieces {
        let code = piece.strip_prefix('[').and_then(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            rest[end..].starts_with('m').then_some(end + 2)
        });
        let (code, rest) = piece.split_at(code.unwrap_or(0));
        match code {
            "" => escape(&mut shown, '\u{1b}'),
            code => {
                shown.push('\u{1b}');
                shown.push_str(code);
            }
        }
        shown.push_str(&text(rest));
    }
    shown
}

fn escaped(
    text: &str,
    is_escaped: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    let Some(first) = text.find(&is_escaped) else {
        return Cow::Borrowed(text);
    };
    let (clean, rest) = text.split_at(first);
    let mut shown = String::with_capacity(text.len() + 16);
    shown.push_str(clean);
    for c in rest.chars() {
        match is_escaped(c) {
            true => escape(&mut shown, c),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

fn escape(shown: &mut String, c: char) {
    match c {
        '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
        c => shown.extend(c.escape_unicode()),
    }
}

fn is_harmful(c: char) -> bool {
    is_control(c) || is_invisible(c)
}

/// What a terminal or a browser acts on: control characters (C0, DEL, C1), ends of lines and paragraphs, changes of direction.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}')
        || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{206F}')
        || matches!(c, '\u{FFF9}'..='\u{FFFB}' | '\u{FFFE}' | '\u{FFFF}')
}

/// What takes no room, or looks like nothing: joiners, soft hyphens, fillers, marks of byte order, tags, selectors.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{00AD}' | '\u{034F}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
    ) || matches!(c, '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200D}' | '\u{2060}'..='\u{2065}')
        || matches!(
            c,
            '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0D}' | '\u{FEFF}' | '\u{FFA0}'
        )
        || matches!(c, '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_and_letters_stay() {
        for (given, shown) in [
            ("a\u{1b}]0;title\u{7}b", "a\\u{1b}]0;title\\u{7}b"),
            ("\u{9b}31m \u{7f}", "\\u{9b}31m \\u{7f}"),
            ("a\rb", "a\\rb"),
            ("abc\u{202e}fed", "abc\\u{202e}fed"),
            (
                "\u{2067}\u{200f}\u{61c}\u{2028}",
                "\\u{2067}\\u{200f}\\u{61c}\\u{2028}",
            ),
            (
                "a\u{200b}b\u{feff}\u{e0041}",
                "a\\u{200b}b\\u{feff}\\u{e0041}",
            ),
        ] {
            assert_eq!(text(given), shown);
            assert_eq!(line(given), shown);
        }
        for kept in [
            "naïve",
            "拒否",
            "שלום",
            "سلام",
            "हिन्दी",
            "❤\u{fe0f}",
            "α = −1.5 … ↑",
        ] {
            assert!(matches!(text(kept), Cow::Borrowed(same) if same == kept));
        }
        assert_eq!(text("a\n\tb"), "a\n\tb");
        assert_eq!(line("a\n\tb"), "a\\n\\tb");
    }

    #[test]
    fn a_label_keeps_its_joiners() {
        assert_eq!(label("می\u{200c}خواهم"), "می\u{200c}خواهم");
        assert_eq!(label("a\u{202e}b\u{2028}\n"), "a\\u{202e}b\\u{2028}\n");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "\u{202e}": ["\u{9b}\u{7f}\u{1b}\u{e0041}\n拒\u{200d}"] });
        let written = serde_json::to_string_pretty(&value).unwrap();
        let shown = json(&written);
        assert!(!shown.contains(|c| is_harmful(c) && c != '\n'), "{shown:?}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn of_escape_sequences_only_colours_stay() {
        let red = "\u{1b}[1;31merror\u{1b}[0m";
        assert_eq!(coloured(red), red);
        assert_eq!(
            coloured("a\u{1b}[2Jb\u{1b}]0;t\u{7}\u{1b}[31\u{202e}m\u{1b}"),
            "a\\u{1b}[2Jb\\u{1b}]0;t\\u{7}\\u{1b}[31\\u{202e}m\\u{1b}"
        );
    }
}

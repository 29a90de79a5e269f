//! The few elements that figures are made of, with all text escaped.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use crate::harmless;

/// The colour of texts.
pub(super) const INK: &str = "#222222";

/// Which end of a text its place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextStyle {
    /// In pixels.
    pub(super) size: f64,
    pub(super) anchor: Anchor,
    pub(super) colour: &'static str,
    /// Degrees, clockwise.
    pub(super) angle: f64,
}

impl TextStyle {
    pub(super) const fn new(size: f64, anchor: Anchor, colour: &'static str) -> Self {
        TextStyle {
            size,
            anchor,
            colour,
            angle: 0.0,
        }
    }

    /// The same, read from bottom to top.
    pub(super) const fn turned(self) -> Self {
        TextStyle {
            angle: -90.0,
            ..self
        }
    }
}

/// An SVG document under construction.
pub(super) struct Canvas {
    text: String,
    clips: usize,
    /// Where labels of points stand: left, top, right, bottom.
    labels: Vec<[f64; 4]>,
}

impl Canvas {
    /// A white page; the title is read out by screen readers.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"'Noto Sans', 'Helvetica Neue', Arial, sans-serif\" role=\"img\">\n<title>{}</title>\n<style>text {{ direction: ltr; unicode-bidi: isolate }}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
            escaped(title)
        );
        Canvas {
            text,
            clips: 0,
            labels: Vec::new(),
        }
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(element);
        self.text.push('\n');
    }

    /// A bold line no wider than that.
    pub(super) fn heading(&mut self, x: f64, y: f64, text: &str, width: f64) {
        // Bold letters are a tenth wider.
        let text = fitted(text, 15.0, width / 1.1);
        self.titled(text.full, |canvas| {
            let text = escaped(&text.shown);
            canvas.push(format_args!(
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"15\" font-weight=\"bold\" fill=\"#111111\">{text}</text>"
            ));
        });
    }

    /// What `draw` draws, which tells its full text to whoever points at it.
    fn titled(&mut self, full: Option<&str>, draw: impl FnOnce(&mut Self)) {
        let Some(full) = full else {
            return draw(self);
        };
        self.push(format_args!("<g><title>{}</title>", escaped(full)));
        draw(self);
        self.push(format_args!("</g>"));
    }

    /// Text beside a point of the area that begins at `[left, top]`, unless it would stand on an earlier one: to the left of the point and
    /// above it where there is room.
    pub(super) fn label(&mut self, point: (f64, f64), text: &str, size: f64, start: [f64; 2]) {
        let text = fitted(text, size, LABEL_WIDTH);
        let width = text_width(&text.shown, size);
        let (left, anchor, x) = match point.0 - 6.0 - width < start[0] {
            true => (point.0 + 6.0, Anchor::Start, point.0 + 6.0),
            false => (point.0 - 6.0 - width, Anchor::End, point.0 - 6.0),
        };
        let y = match point.1 - 5.0 - size < start[1] {
            true => point.1 + 5.0 + size * 0.8,
            false => point.1 - 5.0,
        };
        let place = [left, y - size, left + width, y];
        let overlaps = |other: &[f64; 4]| {
            place[0] < other[2] && other[0] < place[2] && place[1] < other[3] && other[1] < place[3]
        };
        if !self.labels.iter().any(overlaps) {
            self.labels.push(place);
            self.text(x, y, text, TextStyle::new(size, anchor, INK));
        }
    }

    pub(super) fn text<'a>(
        &mut self,
        x: f64,
        y: f64,
        text: impl Into<Fitted<'a>>,
        style: TextStyle,
    ) {
        let TextStyle { size, colour, .. } = style;
        let anchor = match style.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let turn = match style.angle {
            0.0 => String::new(),
            angle => format!(" transform=\"rotate({angle:.0} {x:.1} {y:.1})\""),
        };
        let text = text.into();
        self.titled(text.full, |canvas| {
            let text = escaped(&text.shown);
            canvas.push(format_args!(
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{colour}\"{turn}>{text}</text>"
            ));
        });
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.push(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dashed: bool) {
        let dashes = match dashed {
            true => " stroke-dasharray=\"5 4\"",
            false => "",
        };
        let points = coordinates(points);
        self.push(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dashes}/>"
        ));
    }

    pub(super) fn area(&mut self, points: &[(f64, f64)], colour: &str, opacity: f64) {
        let points = coordinates(points);
        self.push(format_args!(
            "<polygon points=\"{points}\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>"
        ));
    }

    pub(super) fn rectangle(&mut self, [x, y, width, height]: [f64; 4], fill: &str, opacity: f64) {
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\" fill-opacity=\"{opacity}\"/>"
        ));
    }

    /// A point; its form differs by colour, so that series can be told apart without colours.
    pub(super) fn point(&mut self, (x, y): (f64, f64), colour: &str, size: f64) {
        let form = crate::report::PALETTE
            .iter()
            .position(|c| *c == colour)
            .unwrap_or(0)
            % 4;
        let edge = "stroke=\"#ffffff\" stroke-width=\"0.7\"";
        let s = size;
        match form {
            0 => self.push(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{s}\" fill=\"{colour}\" {edge}/>")),
            1 => self.push(format_args!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" {edge}/>", x - s * 0.9, y - s * 0.9, s * 1.8, s * 1.8)),
            2 => self.push(format_args!("<polygon points=\"{x:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\" fill=\"{colour}\" {edge}/>", y - s * 1.2, x - s * 1.15, y + s, x + s * 1.15, y + s)),
            _ => self.push(format_args!("<polygon points=\"{x:.1},{:.1} {:.1},{y:.1} {x:.1},{:.1} {:.1},{y:.1}\" fill=\"{colour}\" {edge}/>", y - s * 1.35, x + s * 1.35, y + s * 1.35, x - s * 1.35)),
        }
    }

    /// What `draw` draws is shown only inside the rectangle.
    pub(super) fn clipped(
        &mut self,
        [x, y, width, height]: [f64; 4],
        draw: impl FnOnce(&mut Self),
    ) {
        let id = self.clips;
        self.clips += 1;
        self.push(format_args!(
            "<clipPath id=\"clip{id}\"><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/></clipPath>\n<g clip-path=\"url(#clip{id})\">"
        ));
        draw(self);
        self.push(format_args!("</g>"));
    }
}

fn coordinates(points: &[(f64, f64)]) -> String {
    let pairs = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
    pairs.collect::<Vec<_>>().join(" ")
}

/// Text as XML takes it, in one line; characters that XML has no way to write are shown as escapes.
pub(in crate::report) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in harmless::label(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Room for the text beside a point.
const LABEL_WIDTH: f64 = 140.0;

/// A text, cut where it was too wide.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::report) struct Fitted<'a> {
    pub(in crate::report) shown: Cow<'a, str>,
    /// The whole text, where it was cut.
    pub(in crate::report) full: Option<&'a str>,
}

impl<'a, T: AsRef<str> + ?Sized> From<&'a T> for Fitted<'a> {
    fn from(text: &'a T) -> Self {
        Fitted {
            shown: Cow::Borrowed(text.as_ref()),
            full: None,
        }
    }
}

/// A text no wider than that: what is too much makes way for an ellipsis.
pub(in crate::report) fn fitted(text: &str, size: f64, width: f64) -> Fitted<'_> {
    if text_width(text, size) <= width {
        return text.into();
    }
    let mut room = width - char_width('…') * size;
    let end = text.char_indices().find(|(_, c)| {
        room -= char_width(*c) * size;
        room < 0.0
    });
    let kept = end.map_or(text, |(end, _)| &text[..end]);
    Fitted {
        shown: Cow::Owned(format!("{}…", kept.trim_end())),
        full: Some(text),
    }
}

/// Names that are told apart by what they say, each no wider than that. Those that would be cut to the same get a number.
pub(super) fn all_fitted<'a>(
    names: impl Iterator<Item = &'a str>,
    size: f64,
    width: f64,
) -> Vec<Fitted<'a>> {
    let mut shown: HashMap<String, usize> = HashMap::new();
    let number = |name: &'a str| {
        let mut name = fitted(name, size, width);
        if let Some(full) = name.full {
            let same = shown.entry(name.shown.to_string()).or_default();
            *same += 1;
            if *same > 1 {
                let number = format!(" ({same})");
                let room = width - text_width(&number, size);
                name.shown = Cow::Owned(fitted(full, size, room).shown.into_owned() + &number);
            }
        }
        name
    };
    names.map(number).collect()
}

/// About how wide a text is, in pixels.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().map(char_width).sum::<f64>() * size
}

/// About how wide a character is, as a share of the size: in Noto Sans letters of English text have 0.54 on average; those of other scripts
/// come from whatever font the reader has.
fn char_width(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' | '.' | ',' | ';' | ':' | '!' | '|' | '\'' => 0.3,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '…' => 0.93,
        'A'..='Z' => 0.68,
        '\0'..='\u{10FF}' => 0.57,
        '\u{2000}'..='\u{2BFF}' => 0.6,
        _ => 1.0,
    }
}

/// A text in lines no wider than that.
pub(super) fn wrapped(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(word, size) + size < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(fitted(word, size, width).shown.into_owned()),
        }
    }
    lines
}

//! Messages for people: what a diagnostic holds, how many are collected, how they are drawn.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::harmless;

use super::bounds::{LONGEST_NAME, Room, shortened};
use super::source::{Location, SourceId, Sources};
use super::tree::Node;

/// How many diagnostics are shown; the rest are counted.
const SHOWN: usize = 20;
/// How many diagnostics are kept; the rest are counted.
const KEPT: usize = 1000;

/// One thing that is wrong with a study, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Diagnostic {
    /// What is wrong: lower-case, values in backticks.
    pub(super) message: String,
    /// Where; `None` where there is no text to point into, such as a file that is missing.
    at: Option<Location>,
    /// The text at the caret.
    label: Option<String>,
    /// Further places that belong to the story, each with its label: the first of two duplicates.
    related: Vec<(Location, String)>,
    help: Option<String>,
    notes: Vec<String>,
}

impl Diagnostic {
    pub(crate) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    /// Labels it with the name in `known` that `name` was probably meant to be, or with `otherwise`.
    pub(crate) fn suggest<'a>(
        &mut self,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
        otherwise: &str,
    ) -> &mut Self {
        match suggest(name, known) {
            Some(meant) => self.label(format!("did you mean `{meant}`?")),
            None => self.label(otherwise),
        }
    }

    pub(crate) fn related(&mut self, at: &Location, label: impl Into<String>) -> &mut Self {
        self.related.push((at.clone(), label.into()));
        self
    }

    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.notes.push(note.into());
        self
    }

    fn render(&self, level: Level<'_>, sources: &Sources, renderer: &Renderer) -> String {
        let title = level.primary_title(harmless::text(&self.message));
        let mut group = Group::with_title(title);
        let mut shown = Vec::new();
        for (_, at, _) in self.places() {
            if shown.contains(&at.source) {
                continue;
            }
            shown.push(at.source);
            let source = sources.get(at.source);
            let name = harmless::line(&source.name);
            let here = self
                .places()
                .filter(|(_, other, _)| other.source == at.source);
            let marks = here.filter_map(|(kind, at, label)| {
                let span = first_line(&source.text, at.span.clone()?);
                Some(kind.span(span).label(label.map(harmless::text)))
            });
            let marks: Vec<Annotation<'_>> = marks.collect();
            let snippet = Snippet::source(&source.text);
            group = match (marks.is_empty(), &source.path) {
                (true, _) => group.element(Origin::path(name)),
                // What was typed on the command line has no file name and no line numbers.
                (false, None) => group.element(snippet.line_numbering(false).annotations(marks)),
                (false, Some(_)) => group.element(snippet.path(name).annotations(marks)),
            };
        }
        let help = self.help.iter().map(|help| (Level::HELP, help));
        let notes = self.notes.iter().map(|note| (Level::NOTE, note));
        let remarks = help.chain(notes);
        let remarks = remarks.map(|(level, text)| level.message(harmless::text(text)));
        renderer.render(&[group.elements(remarks)])
    }

    /// The places to mark, each with its label; that of the problem itself first.
    fn places(&self) -> impl Iterator<Item = (AnnotationKind, &Location, Option<&str>)> {
        let own = self.at.iter();
        let own = own.map(|at| (AnnotationKind::Primary, at, self.label.as_deref()));
        let related = self.related.iter();
        let related = related.map(|(at, label)| (AnnotationKind::Context, at, Some(&**label)));
        own.chain(related)
    }
}

/// A value over many lines is marked on its first; the rest would only push the message away.
fn first_line(text: &str, span: Range<usize>) -> Range<usize> {
    let start = span.start.min(text.len());
    let end = span.end.clamp(start, text.len());
    let line = text.get(start..end).and_then(|value| value.lines().next());
    start..start + line.map_or(0, str::len)
}

/// Whether what is wrong keeps a study from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// Everything that is wrong with a study, with the texts to show it in.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    pub(crate) severity: Severity,
    pub(crate) sources: Sources,
    /// The diagnostics, in the order of the files and of the places in them; those without a place come first. Of very many, those
    /// that were found first.
    pub(crate) list: Vec<Diagnostic>,
    pub(crate) more: usize,
}

impl Diagnostics {
    /// The first diagnostics as text for a terminal, one after the other, with or without colour, and how many more there are.
    pub fn render(&self, color: bool) -> String {
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let (level, noun) = match self.severity {
            Severity::Error => (Level::ERROR, "error"),
            Severity::Warning => (Level::WARNING, "warning"),
        };
        let shown = self.list.iter().take(SHOWN);
        let shown = shown.map(|one| one.render(level.clone(), &self.sources, &renderer));
        let mut rendered: Vec<String> = shown.collect();
        match self.list.len().saturating_sub(SHOWN) + self.more {
            0 => {}
            1 => rendered.push(format!("… and 1 more {noun}")),
            more => rendered.push(format!("… and {more} more {noun}s")),
        }
        rendered.join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Collects diagnostics while a study is read.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    kept: Vec<Diagnostic>,
    /// The last of those that are only counted, for whoever still adds to it.
    last: Option<Diagnostic>,
    counted: usize,
}

impl Problems {
    pub(crate) fn error(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        let diagnostic = Diagnostic {
            message: message.into(),
            ..Diagnostic::default()
        };
        if self.kept.len() < KEPT {
            self.kept.push(diagnostic);
            let last = self.kept.len() - 1;
            return &mut self.kept[last];
        }
        self.counted += 1;
        self.last.insert(diagnostic)
    }

    pub(crate) fn error_at(
        &mut self,
        at: &Location,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let diagnostic = self.error(message);
        diagnostic.at = Some(at.clone());
        diagnostic
    }

    /// Adds the error that `node` is not `expected` ("a number"), and gives none in its place.
    pub(crate) fn mismatch<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        let subject = node.at.subject();
        let message = format!("{subject} is {}, not {expected}", node.value.describe());
        self.error_at(&node.at, message)
            .label(format!("expected {expected}"));
        None
    }

    /// Adds the error that a name is longer than names are, at the place where it stands.
    pub(super) fn long_name(&mut self, at: &Location, name: &str) {
        self.error_at(at, format!("the name `{}` is too long", shortened(name)))
            .label(format!("longer than {LONGEST_NAME} bytes"));
    }

    /// Adds the error that the value at a place is an integer larger than any that we have.
    pub(super) fn large_integer(&mut self, at: &Location) {
        let message = format!("{} is an integer beyond 64 bits", at.subject());
        self.error_at(at, message).label("too large");
    }

    /// Adds the error that a file is not in the syntax of its format: why, at the place or, where that is not known, behind it.
    pub(super) fn syntax(&mut self, at: &Location, format: &str, why: impl Into<String>) {
        let diagnostic = self.error_at(at, format!("the file is not valid {format}"));
        match at.span {
            Some(_) => diagnostic.label(why),
            None => diagnostic.note(why),
        };
    }

    /// Adds the error that a study holds too much, once.
    pub(super) fn no_room(&mut self, room: &mut Room, source: SourceId) {
        if let Some(message) = room.refusal() {
            self.error_at(&Location::new(source, None, ""), message);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether something is wrong at a place that matters.
    pub(crate) fn any(&self, matters: impl Fn(Option<&Location>) -> bool) -> bool {
        self.counted > 0 || self.kept.iter().any(|problem| matters(problem.at.as_ref()))
    }

    /// What is wrong at places that matter, and the rest. Where there is more than can be kept, all of it matters.
    pub(crate) fn split(self, matters: impl Fn(Option<&Location>) -> bool) -> (Self, Self) {
        if self.counted > 0 {
            return (self, Problems::default());
        }
        let (mut here, mut elsewhere) = (Problems::default(), Problems::default());
        let kept = self.kept.into_iter();
        (here.kept, elsewhere.kept) = kept.partition(|problem| matters(problem.at.as_ref()));
        (here, elsewhere)
    }

    /// # Errors
    /// All that was collected, if anything was.
    pub(crate) fn finish(self, sources: &Sources) -> Result<(), Diagnostics> {
        match self.kept.is_empty() {
            true => Ok(()),
            false => Err(self.into_diagnostics(sources, Severity::Error)),
        }
    }

    /// All that was collected, in the order of the files.
    pub(crate) fn into_diagnostics(mut self, sources: &Sources, severity: Severity) -> Diagnostics {
        self.kept.sort_by_key(|diagnostic| {
            let at = diagnostic.at.as_ref()?;
            Some((at.source, at.span.as_ref().map(|span| span.start)))
        });
        Diagnostics {
            severity,
            sources: sources.clone(),
            list: self.kept,
            more: self.counted,
        }
    }
}

/// One error in a text that is no study, at a place of it where that is known.
pub(crate) fn told_in(
    path: &Path,
    text: &str,
    span: Option<Range<usize>>,
    message: &str,
    help: &str,
) -> Diagnostics {
    let mut sources = Sources::default();
    let source = sources.add_file(path, text.to_string());
    let at = Location::new(source, span, "");
    let mut problems = Problems::default();
    problems.error_at(&at, message).help(help);
    problems.into_diagnostics(&sources, Severity::Error)
}

/// The name in `known` that `name` was probably meant to be: at most one slip (a letter missing, added, changed, or
/// two swapped) in every three letters; the nearest, and of equally near ones the first.
pub(crate) fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = |text: &str| text.to_lowercase().replace('-', "_");
    let name = normal(name);
    let most_slips = name.chars().count().max(3) / 3;
    let slips = |candidate: &str| strsim::damerau_levenshtein(&name, &normal(candidate));
    let ranked = known.into_iter().map(|known| (slips(known), known));
    let near = ranked.filter(|(slips, _)| *slips <= most_slips);
    near.min_by_key(|(slips, _)| *slips).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn suggestions_allow_one_slip_in_three_letters() {
        let known = ["alpha", "layer", "max_new_tokens"];
        let meant = |name| suggest(name, known);
        assert_eq!(meant("alhpa"), Some("alpha"));
        assert_eq!(meant("Layers"), Some("layer"));
        assert_eq!(meant("max-new-token"), Some("max_new_tokens"));
        assert_eq!(meant("alfas"), None);
        assert_eq!(meant("x"), None);
        assert_eq!(suggest("anst", ["inst", "ansts"]), Some("inst"));
    }

    #[test]
    fn problems_come_in_the_order_of_the_files() {
        let mut sources = Sources::default();
        let file = sources.add_file(Path::new("a.toml"), "x = 1\ny = [\n2]\n".into());
        let set = sources.add_command_line("--set z=3".into());
        let at = |id, span| Location::new(id, Some(span), "");
        let mut problems = Problems::default();
        problems.error_at(&at(set, 8..9), "third");
        problems
            .error_at(&at(file, 10..14), "second")
            .label("cut at the line's end")
            .related(&at(file, 4..5), "above")
            .note("a remark");
        problems.error_at(&at(file, 0..1), "first");
        problems.error("nowhere");
        let text = problems.finish(&sources).unwrap_err().to_string();
        let expected = "\
error: nowhere

error: first
 --> a.toml:1:1
  |
1 | x = 1
  | ^

error: second
 --> a.toml:2:5
  |
1 | x = 1
  |     - above
2 | y = [
  |     ^ cut at the line's end
  |
  = note: a remark

error: third
 |
 | --set z=3
 |         ^";
        assert_eq!(text, expected);
    }

    #[test]
    fn twenty_are_shown_and_the_rest_counted() {
        let rendered = |count: usize| {
            let mut problems = Problems::default();
            for number in 0..count {
                problems.error(format!("number {number}")).note("a remark");
            }
            problems
                .finish(&Sources::default())
                .unwrap_err()
                .to_string()
        };
        assert!(rendered(20).ends_with("= note: a remark"));
        assert_eq!(rendered(20).matches("error: number").count(), 20);
        assert!(rendered(21).ends_with("\n\n… and 1 more error"));
        let many = rendered(40_000);
        assert_eq!(many.matches("error: number").count(), 20);
        assert!(many.ends_with("\n\n… and 39980 more errors"));
    }

    #[test]
    fn colour_only_where_asked() {
        let mut problems = Problems::default();
        assert!(problems.is_empty());
        problems.error("bad");
        let problems = problems.finish(&Sources::default()).unwrap_err();
        assert_eq!(problems.render(false), "error: bad");
        assert!(problems.render(true).contains("\u{1b}["));
    }
}

//! The texts a study was read from, and places in them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names one text of a [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceId(usize);

/// Where a value was written: the text, the bytes in it, and the value's dotted path in the study.
///
/// The span is absent where the place is not known, which happens for some YAML values; the path is always there, so
/// that a message can name the value without a caret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    source: SourceId,
    span: Option<Range<usize>>,
    path: Arc<str>,
}

impl Location {
    pub(super) fn new(source: SourceId, span: Option<Range<usize>>, path: &str) -> Self {
        Self {
            source,
            span,
            path: path.into(),
        }
    }

    /// The text the value stands in.
    pub(crate) fn source(&self) -> SourceId {
        self.source
    }

    /// The byte range of the value in its text, where it is known.
    pub(crate) fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// The dotted path of the value, such as `stages.steer.alpha[2]`; empty for the study as a whole.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The name of the field itself: the last part of its path.
    pub(crate) fn field(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// The path in backticks for a message, or `the study` for the root.
    pub(super) fn subject(&self) -> String {
        if self.path.is_empty() {
            "the study".into()
        } else {
            format!("`{}`", self.path)
        }
    }
}

/// The dotted path of the field `name` under `parent`; names that TOML would quote are quoted.
pub(super) fn field_path(parent: &str, name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let bare = !name.is_empty() && name.chars().all(is_bare);
    let name = if bare {
        name.to_string()
    } else {
        format!("{name:?}")
    };
    if parent.is_empty() {
        name
    } else {
        format!("{parent}.{name}")
    }
}

/// The path of item `index` (from 0) of the list at `parent`.
pub(super) fn item_path(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// Every text that a study was read from: files, in the order they were opened, then overrides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: String,
    /// Where it was read; `None` for the command line.
    path: Option<PathBuf>,
}

impl Sources {
    pub(super) fn add_file(&mut self, path: &Path, text: String) -> SourceId {
        self.add(path.display().to_string(), text, Some(path.to_path_buf()))
    }

    /// An override's text is its own name, so that a caret can point into what was typed.
    pub(super) fn add_command_line(&mut self, text: String) -> SourceId {
        self.add(text.clone(), text, None)
    }

    fn add(&mut self, name: String, text: String, path: Option<PathBuf>) -> SourceId {
        self.0.push(Source { name, text, path });
        SourceId(self.0.len() - 1)
    }

    /// The study's file and those that it extends, each (path, text), in the order of reading.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        let files = self.0.iter();
        files.filter_map(|source| Some((source.path.as_deref()?, source.text.as_str())))
    }

    /// The overrides as they were given, `path.to.key=value`.
    pub(crate) fn overrides(&self) -> impl Iterator<Item = &str> {
        let typed = self.0.iter().filter(|source| source.path.is_none());
        typed.map(|source| source.text.as_str())
    }

    /// The name of a text: a file's path as the user gave it, or `--set path.to.key=value`.
    pub(crate) fn name(&self, id: SourceId) -> &str {
        self.0.get(id.0).map_or("", |source| &source.name)
    }

    /// The whole text.
    pub(crate) fn text(&self, id: SourceId) -> &str {
        self.0.get(id.0).map_or("", |source| &source.text)
    }

    /// The path that `path`, written at `at`, means: relative to the folder of the file it is written in, or to the
    /// current directory for an override. An absolute path stays as it is.
    pub(crate) fn resolve_path(&self, at: &Location, path: impl AsRef<Path>) -> PathBuf {
        match self.folder(at.source) {
            Some(folder) => folder.join(path),
            None => path.as_ref().to_path_buf(),
        }
    }

    /// The text of the study file itself, byte for byte as given.
    #[cfg(test)]
    pub(super) fn main_text(&self) -> &str {
        self.text(SourceId(0))
    }

    pub(super) fn is_command_line(&self, id: SourceId) -> bool {
        self.folder(id).is_none()
    }

    fn folder(&self, id: SourceId) -> Option<&Path> {
        let path = self.0.get(id.0)?.path.as_deref()?;
        Some(path.parent().unwrap_or(Path::new("")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_from_the_file_that_names_them() {
        let mut sources = Sources::default();
        let file = sources.add_file(Path::new("studies/a.toml"), String::new());
        let bare = sources.add_file(Path::new("b.toml"), String::new());
        let set = sources.add_command_line("--set x=1".into());
        let resolve = |id, path: &str| {
            let at = Location::new(id, None, "prompts.main.path");
            sources.resolve_path(&at, path)
        };
        assert_eq!(resolve(file, "p.jsonl"), Path::new("studies/p.jsonl"));
        assert_eq!(resolve(file, "/p.jsonl"), Path::new("/p.jsonl"));
        assert_eq!(resolve(bare, "p.jsonl"), Path::new("p.jsonl"));
        assert_eq!(resolve(set, "p.jsonl"), Path::new("p.jsonl"));
    }

    #[test]
    fn paths_quote_what_toml_would_quote() {
        assert_eq!(field_path("", "stages"), "stages");
        assert_eq!(field_path("models", "qwen2.5"), "models.\"qwen2.5\"");
        assert_eq!(item_path("stages.steer.alpha", 2), "stages.steer.alpha[2]");
    }
}

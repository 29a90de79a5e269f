//! The texts a study was read from, and places in them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names one text of a [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceId(usize);

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(super) source: SourceId,
    /// Its bytes in the text; none where the place is not known, which happens for some YAML values.
    pub(super) span: Option<Range<usize>>,
    /// Its dotted path in the study, such as `stages.steer.alpha[2]`; empty for the study as a whole.
    pub(crate) path: Arc<str>,
}

impl Location {
    pub(super) fn new(source: SourceId, span: Option<Range<usize>>, path: &str) -> Self {
        Self {
            source,
            span,
            path: path.into(),
        }
    }

    /// The name of the field itself: the last part of its path.
    pub(crate) fn field(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// The path in backticks for a message, or `the study` for the root.
    pub(super) fn subject(&self) -> String {
        match self.path.is_empty() {
            true => "the study".into(),
            false => format!("`{}`", self.path),
        }
    }
}

/// The dotted path of the field `name` under `parent`; names that TOML would quote are quoted.
pub(crate) fn field_path(parent: &str, name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = match !name.is_empty() && name.chars().all(is_bare) {
        true => name.to_string(),
        false => format!("{name:?}"),
    };
    match parent.is_empty() {
        true => name,
        false => format!("{parent}.{name}"),
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
pub(super) struct Source {
    /// A file's path as the user gave it, or `--set path.to.key=value`.
    pub(super) name: String,
    pub(super) text: String,
    /// Where it was read; `None` for the command line.
    pub(super) path: Option<PathBuf>,
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

    pub(super) fn get(&self, id: SourceId) -> &Source {
        &self.0[id.0]
    }

    /// The path that `path`, written at `at`, means: relative to the folder of the file it is written in, or to the
    /// current directory for an override. An absolute path stays as it is.
    pub(crate) fn resolve_path(&self, at: &Location, path: impl AsRef<Path>) -> PathBuf {
        let file = self.get(at.source).path.as_deref();
        let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
        folder.join(path)
    }

    /// The text of the study file itself, byte for byte as given.
    #[cfg(test)]
    pub(super) fn main_text(&self) -> &str {
        &self.0[0].text
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

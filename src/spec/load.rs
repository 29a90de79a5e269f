//! From a path to one tree: reading files, following `extends`, merging, applying overrides.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::bounds::Room;
use super::decode::Decode;
use super::diagnostic::{Diagnostics, Problems};
use super::lists::OneOrMany;
use super::source::{Location, SourceId, Sources};
use super::tree::{Node, Value};
use super::{overrides, read_toml, read_yaml};
use crate::files;

/// A study as read: one tree, and the texts it came from.
#[derive(Clone, Debug)]
pub struct Document {
    /// The merged tree; always a table, and without `extends`.
    pub(crate) root: Node,
    /// The texts that its places point into.
    pub(crate) sources: Sources,
}

impl Document {
    /// The text of the study file itself, byte for byte as given: no includes, no overrides.
    #[cfg(test)]
    pub(crate) fn given(&self) -> &str {
        self.sources.main_text()
    }
}

/// Reads the study file at `path` (`.toml`, `.yaml` or `.yml`) with everything it `extends`, then applies
/// `overrides`, each `path.to.key=value`.
///
/// # Errors
/// Everything that keeps the files from being read: a file that is missing, not UTF-8 or not valid TOML or YAML, a
/// circle of `extends`, an override that makes no sense.
pub fn load(path: &Path, overrides: &[String]) -> Result<Document, Diagnostics> {
    let mut loader = Loader::default();
    let root = loader.file(path, None);
    loader.finish(root, overrides)
}

/// As [`load`], with the text of the study file already at hand; `path` gives its name, format and folder.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_text(
    path: &Path,
    text: &str,
    overrides: &[String],
) -> Result<Document, Diagnostics> {
    let mut loader = Loader::default();
    let root = loader.text(path, text.to_string(), None);
    loader.finish(root, overrides)
}

/// Reads a study file of anybody's: as [`load`], but no other file, whatever it names.
///
/// # Errors
/// As [`load`], and a file that extends others.
pub(crate) fn load_alone(path: &Path) -> Result<Document, Diagnostics> {
    let mut loader = Loader {
        is_alone: true,
        ..Loader::default()
    };
    let root = loader.file(path, None);
    loader.finish(root, &[])
}

/// How often files are named by `extends` in a study, at most.
const MOST_EXTENDED: usize = 100;

type Reader = fn(&str, SourceId, &mut Room, &mut Problems) -> Option<Node>;

/// The reader of a file's format, which its name says.
fn reader_for(path: &Path) -> Option<Reader> {
    match path.extension()?.to_str()? {
        "toml" => Some(read_toml::read),
        "yaml" | "yml" => Some(read_yaml::read),
        _ => None,
    }
}

#[derive(Default)]
struct Loader {
    sources: Sources,
    problems: Problems,
    room: Room,
    bytes: u64,
    /// The files being read, from the study file inwards: in canonical form, and as the user knows them.
    open: Vec<(PathBuf, String)>,
    /// What the files that were extended hold, none for those with a problem: a file is read once however often it is named.
    known: HashMap<Identity, Option<Node>>,
    /// How often files were named.
    named: usize,
    /// Whether no other file is read.
    is_alone: bool,
}

/// What makes two names mean the same: one file, and one folder that the paths in it start from. A link in another folder is another.
type Identity = (PathBuf, Option<PathBuf>);

fn identity(path: &Path) -> Option<Identity> {
    let folder = Path::new(".").join(path.parent().unwrap_or(path));
    Some((fs::canonicalize(path).ok()?, fs::canonicalize(folder).ok()))
}

impl Loader {
    fn finish(mut self, root: Option<Node>, overrides: &[String]) -> Result<Document, Diagnostics> {
        // With no tree the overrides are checked against an empty one, so that their own mistakes are told too.
        let mut root = root.unwrap_or_else(|| {
            let source = self.sources.add_command_line(String::new());
            Node::empty_table(&Location::new(source, None, ""))
        });
        for text in overrides {
            overrides::apply(&mut root, text, &mut self.sources, &mut self.problems);
        }
        self.problems.finish(&self.sources)?;
        Ok(Document {
            root,
            sources: self.sources,
        })
    }

    /// Reads a file; `named_by` is the value that names it, if it is not the study file itself.
    fn file(&mut self, path: &Path, named_by: Option<&Location>) -> Option<Node> {
        let room = files::SETTINGS_BYTES.saturating_sub(self.bytes);
        let read = files::read(path, room).map_err(|error| match error.kind() {
            ErrorKind::NotFound => "there is no such file".into(),
            ErrorKind::PermissionDenied => "you may not read it".into(),
            ErrorKind::FileTooLarge => format!(
                "a study is at most {} MiB long, with the files that it extends",
                files::SETTINGS_BYTES >> 20
            ),
            _ => error.to_string(),
        });
        let text = read.and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| {
                let sound = error.as_bytes().iter();
                let sound = sound.take(error.utf8_error().valid_up_to());
                let line = 1 + sound.filter(|byte| **byte == b'\n').count();
                format!("line {line} is not UTF-8 text")
            })
        });
        match text {
            Ok(text) => self.text(path, text, named_by),
            Err(reason) => self.unreadable(path, &reason, named_by),
        }
    }

    fn unreadable(
        &mut self,
        path: &Path,
        reason: &str,
        named_by: Option<&Location>,
    ) -> Option<Node> {
        let message = format!("cannot read `{}`: {reason}", path.display());
        match named_by {
            Some(at) => self.problems.error_at(at, message).label("named here"),
            None => self.problems.error(message),
        };
        None
    }

    /// Reads a file whose text is at hand, and what it extends.
    fn text(&mut self, path: &Path, text: String, named_by: Option<&Location>) -> Option<Node> {
        let Some(read) = reader_for(path) else {
            let reason = "a study file ends in `.toml`, `.yaml` or `.yml`";
            return self.unreadable(path, reason, named_by);
        };
        self.bytes += text.len() as u64;
        let id = self.sources.add_file(path, text.clone());
        let root = read(&text, id, &mut self.room, &mut self.problems)?;
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        self.open.push((canonical, path.display().to_string()));
        let root = self.extend(root);
        self.open.pop();
        Some(root)
    }

    /// Takes `extends` off a file's tree and lays the tree over what it names, the last named on top.
    fn extend(&mut self, mut root: Node) -> Node {
        let Value::Table(table) = &mut root.value else {
            return root;
        };
        let Some(extends) = table.remove("extends") else {
            return root;
        };
        if self.is_alone {
            self.problems
                .error_at(&extends.at, "it extends other files")
                .label("expected a study that stands alone");
            return root;
        }
        let Some(files) = OneOrMany::<String>::decode(&extends, &mut self.problems) else {
            return root;
        };
        let mut base = Node::empty_table(&root.at);
        for file in files.0 {
            let path = self.sources.resolve_path(&file.at, &file.value);
            self.named += 1;
            if self.named > MOST_EXTENDED {
                // Once, where it comes to that.
                if self.named == MOST_EXTENDED + 1 {
                    let message = format!("`extends` names files more than {MOST_EXTENDED} times");
                    self.problems
                        .error_at(&file.at, message)
                        .label("from here on");
                }
                break;
            }
            if self.is_circle(&path, &file.at) {
                continue;
            }
            if let Some(next) = self.extended(&path, &file.at) {
                base.lay(next);
            }
        }
        base.lay(root);
        base
    }

    /// What a file holds that is named by `extends`, at that place.
    fn extended(&mut self, path: &Path, named_by: &Location) -> Option<Node> {
        let identity = identity(path);
        if let Some(known) = identity.as_ref().and_then(|file| self.known.get(file)) {
            return known.clone();
        }
        let node = self.file(path, Some(named_by));
        if let Some(identity) = identity {
            self.known.insert(identity, node.clone());
        }
        node
    }

    fn is_circle(&mut self, path: &Path, named_by: &Location) -> bool {
        let canonical = fs::canonicalize(path).ok();
        let mut open = self.open.iter().map(|(path, _)| path);
        let Some(start) = open.position(|open| canonical.as_ref() == Some(open)) else {
            return false;
        };
        let circle = self.open[start..].iter().map(|(_, name)| name.as_str());
        let mut circle: Vec<&str> = circle.collect();
        circle.extend(circle.first().copied());
        let message = format!("`extends` runs in a circle: {}", circle.join(" -> "));
        self.problems
            .error_at(named_by, message)
            .label("closes the circle");
        true
    }
}

#[cfg(test)]
mod tests;

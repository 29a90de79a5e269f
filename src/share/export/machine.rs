//! The paths of this machine, and text without them: `…/<file name>` stands where one stood.
//!
//! A path is what begins with `/` or `~/` where a word or a quoted text begins, and anything below the folders that are known to be of the
//! machine, wherever it stands: those of the run, its cache and its files, the home folder and the current one.

use std::path::{Path, PathBuf};

use regex::{Captures, Regex};

use crate::files;
use crate::plan::Opened;
use crate::report::FinishedRun;

/// Stands for the folders of the machine.
const SOMEWHERE: &str = "…/";
/// What ends a path that nothing quotes.
const END: &str = r#"\s"'`<>\)\]\},;"#;

/// What is known of the machine's paths.
pub(in super::super) struct Machine {
    /// What finds them, and which part of each is the path.
    patterns: Vec<Regex>,
}

impl Machine {
    pub(super) fn of(run: &FinishedRun, opened: &Opened) -> Self {
        let manifest = &run.manifest;
        let said = [&manifest.directory, &manifest.cache].into_iter().flatten();
        let mut folders: Vec<PathBuf> = said.map(|path| files::path_of(path)).collect();
        let below = manifest.given().map(|(_, path)| path);
        let below = below.chain(opened.study.paths().into_iter().map(|(_, path)| path));
        folders.extend(below.filter_map(|path| Some(path.parent()?.to_path_buf())));
        folders.extend([run.path.clone(), opened.cache.folder.clone()]);
        folders.extend(std::env::current_dir());
        folders.extend(std::env::home_dir());
        folders.push(std::env::temp_dir());
        Machine::with_folders(folders)
    }

    /// Of what an opened study names alone.
    pub(in super::super) fn of_study(opened: &Opened) -> Self {
        let named = opened.study.paths().into_iter();
        let below = named.filter_map(|(_, path)| Some(path.parent()?.to_path_buf()));
        Machine::with_folders(below.collect())
    }

    fn with_folders(folders: Vec<PathBuf>) -> Self {
        let resolved = folders.iter().filter_map(|path| path.canonicalize().ok());
        let absolute = folders
            .iter()
            .filter_map(|path| std::path::absolute(path).ok());
        let mut folders: Vec<String> = resolved.chain(absolute).filter_map(text_of).collect();
        // The longest first, whose end is the most.
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
        folders.dedup();
        let known = folders.iter().map(|folder| {
            let folder = regex::escape(folder);
            format!(
                r"(?P<before>^|[^\w./…-]|//)(?P<path>{folder}(?:/[^{END}]*)?)(?P<after>[^\w.-]|$)"
            )
        });
        let quoted = ['"', '\''].map(|quote| {
            format!(
                "(?P<before>{quote})(?P<path>~?/[^{quote}\n]*[^{quote}/\n]/*)(?P<after>{quote})"
            )
        });
        let bare =
            format!(r"(?P<before>^|[\s`=:\(\[,{{<>])(?P<path>~?/[^/{END}][^{END}]*)(?P<after>)");
        let patterns = quoted.into_iter().chain(known).chain([bare]);
        Machine {
            patterns: patterns.filter_map(|text| Regex::new(&text).ok()).collect(),
        }
    }

    /// A text without the machine's paths.
    pub(in super::super) fn without(&self, text: &str) -> String {
        let mut text = text.to_string();
        for pattern in &self.patterns {
            // What ends one path may begin the next.
            loop {
                let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
                    let part = |name| found.name(name).map_or("", |part| part.as_str());
                    let path = part("path").trim_end_matches('/');
                    let name = path.rsplit('/').next().unwrap_or_default();
                    format!("{}{SOMEWHERE}{name}{}", part("before"), part("after"))
                });
                match replaced {
                    std::borrow::Cow::Borrowed(_) => break,
                    std::borrow::Cow::Owned(replaced) => text = replaced,
                }
            }
        }
        text
    }

    /// A path that a study wrote down, without the folders that lead to it from elsewhere.
    pub(super) fn without_folders(source: &str) -> String {
        let path = Path::new(source);
        let plain = path.parent().is_none_or(|folder| folder == Path::new(""));
        match path.file_name() {
            Some(name) if !plain => format!("{SOMEWHERE}{}", files::text_of(name)),
            _ => source.to_string(),
        }
    }
}

/// A folder as text, where it says more than that it is on a machine.
fn text_of(path: PathBuf) -> Option<String> {
    let text = path.to_str()?.trim_end_matches('/');
    (!text.is_empty()).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str) -> String {
        let folders = ["/home/ada/studies", "/home/ada", "/tmp"];
        Machine::with_folders(folders.map(PathBuf::from).to_vec()).without(text)
    }

    #[test]
    fn paths_of_the_machine_become_the_names_of_files() {
        for (text, expected) in [
            (
                "source = \"/data/models/a b.gguf\"",
                "source = \"…/a b.gguf\"",
            ),
            (
                "path = '/data/p.jsonl' # from ~/old/p.jsonl",
                "path = '…/p.jsonl' # from …/p.jsonl",
            ),
            (
                "--set models.inst.source=/srv/inst",
                "--set models.inst.source=…/inst",
            ),
            (
                "see file:///home/ada/x.txt, (/opt/y/z)",
                "see file://…/x.txt, (…/z)",
            ),
            ("in /home/ada/studies", "in …/studies"),
            ("/home/ada /tmp/a /tmp/b", "…/ada …/a …/b"),
            ("[files.\"/data/x.csv\"]", "[files.\"…/x.csv\"]"),
            ("bytes:/tmp/caf%E9", "bytes:…/caf%E9"),
        ] {
            assert_eq!(without(text), expected);
        }
    }

    #[test]
    fn what_is_no_path_of_the_machine_stays() {
        for text in [
            "source = \"../models/inst\"",
            "source = \"hf:org/name@main\" # see https://hub/org/name",
            "refuse = [\"/\", \"and/or\"] # 3 / 4, harmful/edge",
            "models/home/ada, /homeland/adam is 1/2",
        ] {
            let kept = without(text);
            let expected = text.replace("/homeland/adam", "…/adam");
            assert_eq!(kept, expected);
        }
    }

    #[test]
    fn a_source_keeps_the_name_of_its_file() {
        assert_eq!(Machine::without_folders("../m/a.gguf"), "…/a.gguf");
        assert_eq!(Machine::without_folders("a.gguf"), "a.gguf");
    }
}

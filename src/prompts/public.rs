//! Public prompt sets: where each is, under which licence, and what its files are known by. None of them is part of this program.

mod sets;

use std::path::Path;

use crate::fetch::sha256;

use super::{Columns, PromptSet};

pub(crate) use sets::SETS;

/// The fewest digits of a SHA-256 that a file is known by: 48 bits.
#[cfg(test)]
const FEWEST_DIGITS: usize = 12;
/// Bytes that a file may have whose size is not known.
const MOST_BYTES: u64 = 64 << 20;

/// A set that others have published.
#[derive(Debug)]
pub(crate) struct PublicSet {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Whose work it is.
    pub(crate) credit: &'static str,
    pub(crate) home: Home,
    /// The commit that its files are taken from; none where they are not fetched.
    pub(crate) commit: Option<&'static str>,
    pub(crate) licence: Licence,
    pub(crate) files: &'static [PublicFile],
    /// Why it is not fetched, and how to get it; none where it is fetched.
    pub(crate) obstacle: Option<Obstacle>,
    /// What to know before its prompts are used.
    pub(crate) hint: Option<&'static str>,
}

/// The repository that has its files.
#[derive(Debug)]
pub(crate) enum Home {
    GitHub(&'static str),
    /// A data set of the hub.
    Hub(&'static str),
}

#[derive(Debug)]
pub(crate) struct Licence {
    /// As SPDX has it; none where its authors state none of these.
    pub(crate) name: Option<&'static str>,
    pub(crate) note: Option<&'static str>,
}

#[derive(Debug)]
pub(crate) struct Obstacle {
    /// Whether its authors ask who wants it.
    pub(crate) is_gated: bool,
    pub(crate) told: &'static str,
}

#[derive(Debug)]
pub(crate) struct PublicFile {
    /// In its repository.
    pub(crate) path: &'static str,
    pub(crate) rows: u64,
    pub(crate) size: Size,
    /// Lower-case hexadecimal digits that the SHA-256 of its bytes begins with: all 64 where they are known, none where nothing is.
    pub(crate) sha256: &'static str,
    /// What the file calls the id, the text, the split and the category.
    pub(crate) columns: [Option<&'static str>; 4],
}

/// How many bytes a file has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    Exactly(u64),
    /// As its page says it, rounded.
    About(u64),
    Unknown,
}

impl Size {
    /// The most bytes that are taken for it.
    pub(crate) fn most_bytes(self) -> u64 {
        match self {
            Size::Exactly(bytes) => bytes,
            Size::About(bytes) => bytes + bytes / 10,
            Size::Unknown => MOST_BYTES,
        }
    }

    fn may_be(self, bytes: u64) -> bool {
        match self {
            Size::Exactly(exactly) => bytes == exactly,
            Size::About(_) | Size::Unknown => bytes <= self.most_bytes(),
        }
    }
}

impl PublicSet {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        SETS.iter().find(|set| set.name == name)
    }

    /// The set that a file's content is of; none of content that is not known.
    pub(super) fn of_content(content: &[u8]) -> Option<&'static Self> {
        let bytes = content.len() as u64;
        let may_be = |file: &PublicFile| file.is_known() && file.size.may_be(bytes);
        if !SETS.iter().flat_map(|set| set.files).any(may_be) {
            return None;
        }
        let digits = sha256(content);
        let is_it = |file: &PublicFile| may_be(file) && digits.starts_with(file.sha256);
        SETS.iter().find(|set| set.files.iter().any(is_it))
    }

    /// Where it is, for people.
    pub(crate) fn page(&self) -> String {
        match self.home {
            Home::GitHub(repository) => format!("https://github.com/{repository}"),
            Home::Hub(repository) => format!("https://huggingface.co/datasets/{repository}"),
        }
    }
}

impl PublicFile {
    /// Its name in the folder that it is put in.
    pub(crate) fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    fn is_known(&self) -> bool {
        !self.sha256.is_empty()
    }

    /// Whether a content is its, as far as its hash and its size tell.
    pub(crate) fn is_of(&self, content: &[u8]) -> bool {
        let may_be = self.is_known() && self.size.may_be(content.len() as u64);
        may_be && sha256(content).starts_with(self.sha256)
    }

    /// Whether these are its bytes, all its rows among them.
    ///
    /// # Errors
    /// Why they are not: a fragment.
    pub(crate) fn check(&self, content: &[u8]) -> Result<(), String> {
        let digits = sha256(content);
        if !digits.starts_with(self.sha256) {
            // What Git LFS keeps in a repository in the place of a large file.
            let pointer = content.starts_with(b"version https://git-lfs");
            return Err(match pointer {
                true => "a pointer to it arrived (Git LFS), and not the file".to_string(),
                false => format!("it has the checksum {digits}"),
            });
        }
        let bytes = content.len() as u64;
        if !self.size.may_be(bytes) {
            return Err(format!("it has {bytes} bytes"));
        }
        let set = PromptSet::read_as(Path::new(self.name()), content, &self.columns());
        let rows = set.map_err(|errors| format!("it cannot be read: {errors}"))?;
        match rows.prompts.len() as u64 {
            rows if rows == self.rows => Ok(()),
            rows => Err(format!("it has {rows} prompts, expected {}", self.rows)),
        }
    }

    pub(crate) fn columns(&self) -> Columns {
        let [id, prompt, split, category] = self.columns.map(|name| name.map(str::to_string));
        Columns {
            id,
            prompt,
            split,
            category,
        }
    }
}

impl PromptSet {
    /// The licence of its prompts: what the study says, or what is known of the file.
    pub(crate) fn licence<'l>(&self, said: Option<&'l str>) -> Option<&'l str> {
        said.or_else(|| self.public.and_then(|set| set.licence.name))
    }

    /// What a reader should know of the licence, where the study says this one: fragments that follow the set's name.
    pub(crate) fn licence_findings(&self, said: Option<&str>) -> Vec<String> {
        let own = self.public.map(|set| set.licence.name);
        let mut findings = Vec::new();
        match (said, own) {
            (Some(said), Some(Some(own))) if !said.eq_ignore_ascii_case(own) => {
                findings.push(format!("the study says that its licence is `{said}`; its file is a public one, under `{own}`"));
            }
            (None, Some(None)) => findings.push(
                "its file is a public one of which no licence is stated: ask its authors before you pass it on".to_string(),
            ),
            _ => {}
        }
        let licences = [said, own.flatten()];
        if let Some(licence) = licences.into_iter().flatten().find(|l| is_noncommercial(l)) {
            findings.push(format!("its licence `{licence}` allows no commercial use"));
        }
        findings
    }
}

/// Whether a licence, by its identifier or the address of its text, is for non-commercial use only.
pub(crate) fn is_noncommercial(licence: &str) -> bool {
    let mut words = licence.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| {
        ["nc", "noncommercial"]
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_set_is_pinned_or_says_how_to_get_it() {
        let names: BTreeSet<&str> = SETS.iter().map(|set| set.name).collect();
        assert_eq!(names.len(), SETS.len());
        let hexadecimal = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        for set in SETS {
            let name = set.name;
            assert!(!set.files.is_empty(), "{name}");
            assert_eq!(set.commit.is_some(), set.obstacle.is_none(), "{name}");
            let is_commit = |commit: &str| commit.len() == 40 && hexadecimal(commit);
            assert!(set.commit.is_none_or(is_commit), "{name}");
            let files: BTreeSet<&str> = set.files.iter().map(PublicFile::name).collect();
            assert_eq!(files.len(), set.files.len(), "{name}");
            for file in set.files {
                assert!(hexadecimal(file.sha256), "{name}");
                let is_pinned = match file.sha256.len() {
                    64 => true,
                    FEWEST_DIGITS.. => matches!(file.size, Size::Exactly(_)),
                    _ => false,
                };
                assert_eq!(is_pinned, set.commit.is_some(), "{name}");
                assert!(file.columns().given_twice().is_none(), "{name}");
            }
        }
    }

    #[test]
    fn licences_for_noncommercial_use_are_known_by_their_names() {
        for licence in [
            "CC-BY-NC-4.0",
            "cc-by-nc-sa-3.0",
            "https://creativecommons.org/licenses/by-nc/4.0/",
            "PolyForm-Noncommercial-1.0.0",
        ] {
            assert!(is_noncommercial(licence), "{licence}");
        }
        for licence in ["CC-BY-4.0", "MIT", "NCSA", "https://example.org/once", ""] {
            assert!(!is_noncommercial(licence), "{licence}");
        }
    }

    fn set(public: Option<&str>) -> PromptSet {
        let mut set =
            PromptSet::parse_jsonl(Path::new("p.jsonl"), "{\"id\": 1, \"prompt\": \"Why?\"}")
                .unwrap();
        set.public = public.map(|name| PublicSet::named(name).unwrap());
        set
    }

    #[test]
    fn a_licence_is_said_by_the_study_or_known_of_the_file() {
        assert_eq!(set(None).licence(None), None);
        assert_eq!(set(None).licence(Some("MIT")), Some("MIT"));
        assert_eq!(set(Some("xstest")).licence(None), Some("CC-BY-4.0"));
        assert_eq!(set(Some("xstest")).licence(Some("MIT")), Some("MIT"));
        assert_eq!(set(Some("malicious-instruct")).licence(None), None);
    }

    #[test]
    fn what_a_licence_forbids_and_what_contradicts_it_is_told() {
        let told = |public, said| set(public).licence_findings(said).join("; ");
        assert_eq!(told(None, None), "");
        assert_eq!(told(None, Some("MIT")), "");
        assert_eq!(told(Some("xstest"), Some("cc-by-4.0")), "");
        assert!(told(Some("xstest"), Some("MIT")).contains("under `CC-BY-4.0`"));
        let forbids = "its licence `CC-BY-NC-4.0` allows no commercial use";
        assert_eq!(told(Some("alpaca"), None), forbids);
        assert_eq!(told(None, Some("CC-BY-NC-4.0")), forbids);
        let both = told(Some("alpaca"), Some("MIT"));
        assert!(
            both.contains("`MIT`; its file") && both.ends_with(forbids),
            "{both}"
        );
        assert!(told(Some("malicious-instruct"), None).contains("no licence is stated"));
    }

    #[test]
    fn a_file_is_checked_by_hash_size_and_rows() {
        // `printf 'goal\nWhy?\n' | sha256sum`
        const TWO: &str = "goal\nWhy?\n";
        const DIGITS: &str = "21301c0c019567c5842b0d6497f4b57d723e73585d3de03c527900b0eeaca430";
        let file = |sha256, size, rows| PublicFile {
            path: "a/b.csv",
            rows,
            size,
            sha256,
            columns: [None, Some("goal"), None, None],
        };
        let check = |file: PublicFile, text: &str| file.check(text.as_bytes());
        assert_eq!(check(file(DIGITS, Size::Exactly(10), 1), TWO), Ok(()));
        assert_eq!(
            check(file(&DIGITS[..12], Size::Exactly(10), 1), TWO),
            Ok(())
        );
        assert_eq!(check(file(DIGITS, Size::Unknown, 1), TWO), Ok(()));
        for (file, why) in [
            (
                file(&DIGITS[1..], Size::Exactly(10), 1),
                "it has the checksum",
            ),
            (file(DIGITS, Size::Exactly(9), 1), "it has 10 bytes"),
            (
                file(DIGITS, Size::Exactly(10), 2),
                "it has 1 prompts, expected 2",
            ),
        ] {
            let told = check(file, TWO).unwrap_err();
            assert!(told.starts_with(why), "{told}");
        }
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n";
        let told = check(file(DIGITS, Size::Exactly(10), 1), pointer).unwrap_err();
        assert!(told.contains("Git LFS"), "{told}");
        assert_eq!(
            PublicSet::of_content(TWO.as_bytes()).map(|set| set.name),
            None
        );
    }
}

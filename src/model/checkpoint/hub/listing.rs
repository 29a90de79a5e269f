//! What the hub says is in a repository, and whether it is a model that can be used.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::hugging_face::{INDEX, SINGLE};
use super::{NEEDED, OPTIONAL, Repository};
use crate::fetch::{Digest, FetchError, printable};
use crate::model::error::Result;

/// Bytes that a file of a repository may have: more than the hub stores in one.
const LARGEST: u64 = 1 << 40;

/// The files of one commit. Everything in it was checked.
pub(super) struct Listing {
    /// 40 or 64 hexadecimal digits.
    pub(super) commit: String,
    /// By names that are safe below any folder.
    pub(super) files: BTreeMap<String, Listed>,
}

/// What the hub says of a file; not every mirror does.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    pub(super) bytes: Option<u64>,
    pub(super) digest: Option<Digest>,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    siblings: Vec<RawFile>,
}

#[derive(Deserialize)]
struct RawFile {
    rfilename: String,
    size: Option<u64>,
    /// Git's name of the file, or of the pointer to a large one.
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<RawLargeFile>,
}

#[derive(Deserialize)]
struct RawLargeFile {
    #[serde(alias = "oid")]
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    pub(super) fn parse(body: &[u8], revision: &str) -> Result<Self, FetchError> {
        let raw: RawListing = serde_json::from_slice(body).map_err(|error| {
            let error = printable(&error.to_string());
            FetchError::Wrong(format!("the list of its files is not as expected: {error}"))
        })?;
        let commit = raw.sha;
        let is_other = Digest::parse(revision).is_some() && !commit.eq_ignore_ascii_case(revision);
        if Digest::parse(&commit).is_none() || is_other {
            let commit = printable(&commit);
            return Err(FetchError::Refused(format!(
                "the hub named the commit `{commit}`"
            )));
        }
        let files = raw.siblings.into_iter().map(RawFile::checked);
        Ok(Self {
            commit,
            files: files.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The files that are wanted besides the weights.
    pub(super) fn settings(&self) -> Vec<String> {
        let names = NEEDED.into_iter().chain(OPTIONAL);
        let index = (!self.has(SINGLE)).then_some(INDEX);
        let names = names.chain(index).filter(|name| self.has(name));
        names.map(str::to_string).collect()
    }

    /// Code that the repository brings for models of an architecture of its own.
    pub(super) fn own_code(&self) -> Option<&str> {
        let mut names = self.files.keys();
        let found = names.find(|name| name.starts_with("modeling_") && name.ends_with(".py"));
        found.map(String::as_str)
    }

    /// Fails where this is no model in the format of Hugging Face transformers with safetensors weights.
    pub(super) fn check_kind(&self, repository: &Repository) -> Result<()> {
        let absent = match self.has(SINGLE) || self.has(INDEX) {
            true => NEEDED.into_iter().find(|name| !self.has(name)),
            false => Some(SINGLE),
        };
        let Some(absent) = absent else { return Ok(()) };
        let (problem, advice) = self.gguf(repository).or_else(|| self.other()).unwrap_or((
            format!("there is no `{absent}`"),
            "choose a repository in the format of Hugging Face transformers, with safetensors weights".to_string(),
        ));
        Err(repository.error(problem, advice))
    }

    fn gguf(&self, repository: &Repository) -> Option<(String, String)> {
        let ggufs = self.ending_in(&[".gguf"]).into_iter();
        let (parts, whole): (Vec<&str>, Vec<&str>) = ggufs.partition(|name| is_part(name));
        let get = format!("`hf download {}", repository.name);
        match (whole.as_slice(), parts.first()) {
            ([], None) => None,
            ([], Some(part)) => Some((
                format!("it holds a GGUF in parts (`{part}`)"),
                format!(
                    "get all of them ({get} --include '*.gguf'`), join them (`llama-gguf-split --merge FIRST-PART JOINED.gguf`) and give the path of the joined file"
                ),
            )),
            ([one], None) => Some((
                format!("it holds a GGUF file, `{one}`"),
                format!("get it ({get} {one}`) and give its path"),
            )),
            (several, _) => Some((
                format!(
                    "it holds {} GGUF files ({})",
                    several.len(),
                    some_of(several)?
                ),
                format!("choose one, get it ({get} FILE`) and give its path"),
            )),
        }
    }

    /// What to do with other weights than those that are read here.
    fn other(&self) -> Option<(String, String)> {
        if self.has("adapter_config.json") {
            let advice =
                "merge it into the model that it was trained on, and give the folder of the result";
            return Some(("it holds an adapter, not a model".into(), advice.into()));
        }
        if !self.ending_in(&[".safetensors"]).is_empty() {
            return None;
        }
        let convert = "choose a repository or a revision with safetensors weights, or load it with transformers and give the folder that `save_pretrained` writes";
        let mut pickled = self.ending_in(&[".bin", ".pt", ".pth", ".ckpt", ".pkl"]);
        pickled.retain(|name| !name.contains("training_args") && !name.contains("optimizer"));
        let foreign = self.ending_in(&[".h5", ".msgpack", ".onnx", ".mlmodel", ".tflite"]);
        let problem = match (some_of(&pickled), some_of(&foreign)) {
            (Some(which), _) => {
                format!("its weights are pickled ({which}), and a pickle can run code")
            }
            (None, Some(which)) => format!("its weights are in another format ({which})"),
            (None, None) => return None,
        };
        Some((problem, convert.into()))
    }

    fn ending_in(&self, ends: &[&str]) -> Vec<&str> {
        let is_such = |name: &&String| {
            let name = name.to_ascii_lowercase();
            ends.iter().any(|end| name.ends_with(end))
        };
        let names = self.files.keys().filter(is_such);
        names.map(String::as_str).collect()
    }
}

impl RawFile {
    fn checked(self) -> Result<(String, Listed), FetchError> {
        let name = self.rfilename;
        let wrong = |what: String| Err(FetchError::Refused(format!("the hub lists {what}")));
        if !is_safe(&name) {
            return wrong(format!("a file named `{}`", printable(&name)));
        }
        let (digits, bytes) = match self.lfs {
            Some(large) => (large.sha256, large.size.or(self.size)),
            None => (self.blob_id, self.size),
        };
        let digest = digits.as_deref().and_then(Digest::parse);
        if let (Some(digits), None) = (&digits, &digest) {
            let digits = printable(digits);
            return wrong(format!("`{name}` with the digest `{digits}`"));
        }
        if let Some(bytes) = bytes.filter(|bytes| *bytes > LARGEST) {
            return wrong(format!("`{name}` with {bytes} bytes"));
        }
        Ok((name, Listed { bytes, digest }))
    }
}

/// Whether a file of this name lies below the folder that it is joined to.
fn is_safe(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.split('/').all(plain) && !name.contains(|c: char| c == '\\' || c.is_control())
}

/// Whether a name ends in `-00001-of-00003.gguf`.
fn is_part(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let stem = name.get(..name.len() - ".gguf".len()).unwrap_or_default();
    let parts = stem.rsplit_once("-of-");
    parts.is_some_and(|(before, count)| {
        let number = before.rsplit('-').next().unwrap_or_default();
        is_number(count) && is_number(number)
    })
}

/// The first of some names; none of none.
fn some_of(names: &[&str]) -> Option<String> {
    let shown = names.iter().take(3);
    let shown: Vec<String> = shown.map(|name| format!("`{}`", printable(name))).collect();
    let more = if names.len() > 3 { ", …" } else { "" };
    (!shown.is_empty()).then(|| shown.join(", ") + more)
}

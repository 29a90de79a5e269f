//! The header of a GGUF file: metadata and the list of tensors.
//!
//! ```text
//! "GGUF"  version u32  number of tensors u64  number of metadata entries u64
//! metadata entries   key, type u32, value
//! tensors            name, number of dimensions u32, dimensions u64 (innermost first), type u32, offset u64
//! (to the next multiple of `general.alignment`) data
//! ```
//!
//! The numbers in it decide what is allocated and where is read, and anybody may have written them: each is held against the bytes that are
//! there before it is used, and lists stay bytes of the file until they are asked for. A key that is there twice is an error, because
//! readers differ in which one they take. Source: the GGUF specification (ggml `docs/gguf.md`).

use std::collections::BTreeMap;

use super::gguf_metadata::Metadata;
use crate::files;

/// The most entries of metadata; the files of large vocabularies have some thirty.
const MOST_ENTRIES: u64 = 1 << 16;
/// The most tensors; a model of 126 layers has a thousand.
const MOST_TENSORS: u64 = 1 << 20;
/// The most dimensions of a tensor, as in ggml.
const MOST_DIMENSIONS: u32 = 4;
/// Lists in lists; nothing known has more than one in another.
const DEEPEST: usize = 4;
/// Where `general.alignment` is absent.
const DEFAULT_ALIGNMENT: usize = 32;

const TEXT: u32 = 8;
const LIST: u32 = 9;

/// What the header says. Borrows the file's bytes.
pub(super) struct Header<'a> {
    pub(super) metadata: Metadata<'a>,
    /// In the order of the file; names may repeat.
    pub(super) tensors: Vec<TensorInfo>,
    /// Where the tensors' offsets count from.
    pub(super) data_start: usize,
}

/// What the header says of a tensor; nothing of it is checked.
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// Outermost first: `[out, in]` for matrices.
    pub(super) shape: Vec<u64>,
    pub(super) kind: u32,
    /// Bytes from the start of the data.
    pub(super) offset: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Integer(i128),
    Float(f64),
    Bool,
    Text(String),
    List(List<'a>),
}

/// A list of values of one type, as the file has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List<'a> {
    kind: u32,
    pub(super) length: u64,
    bytes: &'a [u8],
    wide: bool,
}

impl List<'_> {
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        let mut reader = Reader::of(self.bytes, self.wide);
        let read = (0..self.length).map(|_| reader.text().ok());
        (self.kind == TEXT).then(|| read.collect())?
    }

    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        let mut reader = Reader::of(self.bytes, self.wide);
        let read = (0..self.length).map(|_| match reader.value(self.kind, DEEPEST).ok()? {
            Value::Integer(value) => i64::try_from(value).ok(),
            _ => None,
        });
        read.collect()
    }
}

/// Reads the header of a file of these bytes.
///
/// # Errors
/// What is there is not a GGUF header, or ends before it is whole, or has a key twice.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, String> {
    let most = usize::try_from(files::VOCABULARY_BYTES).unwrap_or(usize::MAX);
    let header = bytes.get(..most).unwrap_or(bytes);
    let mut reader = Reader::of(header, true);
    let read = reader.header();
    match reader.ended && header.len() < bytes.len() {
        false => read,
        true => Err(format!(
            "its header is longer than {} MiB, which is the most that one may have",
            most >> 20
        )),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether lengths have 8 bytes rather than the 4 of version 1.
    wide: bool,
    /// Whether more was asked for than there is.
    ended: bool,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8], wide: bool) -> Self {
        Self {
            bytes,
            at: 0,
            wide,
            ended: false,
        }
    }

    /// The error where the bytes end within `what`.
    fn ends(&mut self, what: &str) -> String {
        self.ended = true;
        format!("not a complete GGUF file (it ends within {what}); download it again")
    }

    fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], String> {
        let end = usize::try_from(count)
            .ok()
            .and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.ends(what))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], String> {
        let taken = self.take(N as u64, what)?;
        taken.try_into().map_err(|_| self.ends(what))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A length, a count or a dimension.
    fn length(&mut self, what: &'static str) -> Result<u64, String> {
        match self.wide {
            true => self.array(what).map(u64::from_le_bytes),
            false => self.u32(what).map(u64::from),
        }
    }

    /// A text; what is not UTF-8 in it is replaced, and zeros at its end, which some writers put there, are no part of it.
    fn text(&mut self) -> Result<String, String> {
        let length = self.length("a text")?;
        let bytes = self.take(length, "a text")?;
        Ok(String::from_utf8_lossy(bytes)
            .trim_end_matches('\0')
            .to_string())
    }

    fn header(&mut self) -> Result<Header<'a>, String> {
        self.version()?;
        let tensors = self.length("its first line")?;
        let entries = self.length("its first line")?;
        for (count, most, what) in [
            (tensors, MOST_TENSORS, "tensors"),
            (entries, MOST_ENTRIES, "entries of metadata"),
        ] {
            if count > most {
                return Err(format!(
                    "its header tells of `{count}` {what}, expected at most {most}; download it again"
                ));
            }
        }
        let metadata = self.metadata(entries)?;
        let tensors = (0..tensors).map(|_| self.tensor());
        let tensors = tensors.collect::<Result<_, _>>()?;
        let alignment =
            metadata.get("general.alignment", "a power of two", |value| match value {
                Value::Integer(value) => {
                    usize::try_from(*value).ok().filter(|n| n.is_power_of_two())
                }
                _ => None,
            })?;
        let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT);
        let data_start = self.at.checked_next_multiple_of(alignment);
        Ok(Header {
            metadata,
            tensors,
            data_start: data_start.ok_or_else(|| self.ends("its header"))?,
        })
    }

    fn version(&mut self) -> Result<(), String> {
        if self.take(4, "its first line")? != b"GGUF" {
            let found = super::not_weights(self.bytes).unwrap_or("it does not begin with `GGUF`");
            return Err(format!("not a GGUF file: {found}; download it again"));
        }
        let version = self.u32("its first line")?;
        self.wide = version > 1;
        match version {
            1..=3 => Ok(()),
            _ if (1..=3).contains(&version.swap_bytes()) => Err(
                "its numbers are big-endian, expected little-endian; convert the model anew"
                    .to_string(),
            ),
            _ => Err(format!(
                "version `{version}` of GGUF, expected 1, 2 or 3; convert the model anew"
            )),
        }
    }

    fn metadata(&mut self, entries: u64) -> Result<Metadata<'a>, String> {
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = self.text()?;
            let kind = self.u32("its metadata")?;
            let value = self.value(kind, 0)?;
            if let Some(other) = metadata.get(&key) {
                let same = match *other == value {
                    true => "the same value",
                    false => "different values",
                };
                return Err(format!(
                    "metadata `{key}` is there twice, with {same}, expected once; convert the model anew"
                ));
            }
            metadata.insert(key, value);
        }
        Ok(Metadata(metadata))
    }

    fn tensor(&mut self) -> Result<TensorInfo, String> {
        const WHAT: &str = "its list of tensors";
        let name = self.text()?;
        let dimensions = self.u32(WHAT)?;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!(
                "tensor `{name}` has `{dimensions}` dimensions, expected at most {MOST_DIMENSIONS}"
            ));
        }
        let shape = (0..dimensions).map(|_| self.length(WHAT));
        let mut shape: Vec<u64> = shape.collect::<Result<_, _>>()?;
        shape.reverse();
        Ok(TensorInfo {
            name,
            shape,
            kind: self.u32(WHAT)?,
            offset: self.array(WHAT).map(u64::from_le_bytes)?,
        })
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value<'a>, String> {
        const WHAT: &str = "its metadata";
        Ok(match kind {
            0 => Value::Integer(self.array(WHAT).map(u8::from_le_bytes)?.into()),
            1 => Value::Integer(self.array(WHAT).map(i8::from_le_bytes)?.into()),
            2 => Value::Integer(self.array(WHAT).map(u16::from_le_bytes)?.into()),
            3 => Value::Integer(self.array(WHAT).map(i16::from_le_bytes)?.into()),
            4 => Value::Integer(self.array(WHAT).map(u32::from_le_bytes)?.into()),
            5 => Value::Integer(self.array(WHAT).map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.array(WHAT).map(f32::from_le_bytes)?.into()),
            7 => self.array::<1>(WHAT).map(|_| Value::Bool)?,
            TEXT => Value::Text(self.text()?),
            LIST => Value::List(self.list(depth)?),
            10 => Value::Integer(self.array(WHAT).map(u64::from_le_bytes)?.into()),
            11 => Value::Integer(self.array(WHAT).map(i64::from_le_bytes)?.into()),
            12 => Value::Float(self.array(WHAT).map(f64::from_le_bytes)?),
            other => return Err(unknown_kind(other)),
        })
    }

    /// Goes past a list and keeps its bytes.
    fn list(&mut self, depth: usize) -> Result<List<'a>, String> {
        const WHAT: &str = "a list of its metadata";
        if depth == DEEPEST {
            return Err(format!(
                "its metadata has lists in lists, more than {DEEPEST} deep"
            ));
        }
        let kind = self.u32(WHAT)?;
        let length = self.length(WHAT)?;
        let start = self.at;
        match width(kind) {
            Some(width) => {
                self.take(length.saturating_mul(width), WHAT)?;
            }
            // Each has a length of its own, so that there cannot be more of them than bytes.
            None if kind == TEXT => {
                for _ in 0..length {
                    let length = self.length(WHAT)?;
                    self.take(length, WHAT)?;
                }
            }
            None if kind == LIST => {
                for _ in 0..length {
                    self.list(depth + 1)?;
                }
            }
            None => return Err(unknown_kind(kind)),
        }
        Ok(List {
            kind,
            length,
            bytes: &self.bytes[start..self.at],
            wide: self.wide,
        })
    }
}

fn unknown_kind(kind: u32) -> String {
    format!("its metadata has a value of type `{kind}`, expected 0 to 12; download it again")
}

/// Bytes of a number of this type.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

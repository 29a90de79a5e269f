//! What is in an archive, onto the disk.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use super::{Entry, ReadError, SharedFile, refused};

const CHUNK_BYTES: usize = 1 << 16;

impl SharedFile {
    /// Writes every file into `folder`, which is empty.
    ///
    /// # Errors
    /// An entry that is not what the directory says, or that is an archive itself.
    pub(crate) fn extract(&self, folder: &Path) -> Result<(), ReadError> {
        for entry in &self.entries {
            let path = folder.join(&entry.name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            self.copy(entry, &mut File::create_new(&path)?)?;
        }
        Ok(())
    }

    /// Writes the content of an entry. Never more than the directory says.
    fn copy(&self, entry: &Entry, to: &mut impl Write) -> Result<(), ReadError> {
        let name = &entry.name;
        let part = Part {
            file: &self.file,
            position: entry.start,
            left: entry.packed,
        };
        let mut packed = BufReader::with_capacity(CHUNK_BYTES, part);
        if !entry.is_deflated {
            return write_checked(entry, &mut packed, to);
        }
        let mut unpacked = DeflateDecoder::new(packed);
        write_checked(entry, &mut unpacked, to)?;
        match unpacked.total_in() == entry.packed {
            true => Ok(()),
            false => refused(format!("there are bytes behind the content of `{name}`")),
        }
    }
}

fn write_checked(
    entry: &Entry,
    from: &mut impl Read,
    to: &mut impl Write,
) -> Result<(), ReadError> {
    let name = &entry.name;
    let mut crc = Crc::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut found: u64 = 0;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return refused(format!("the content of `{name}` is damaged: {error}")),
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        if found == 0 && is_archive(bytes) {
            return refused(format!("`{name}` is an archive itself"));
        }
        found += count as u64;
        if found > entry.bytes {
            return refused(format!(
                "`{name}` is larger than the {} bytes it says",
                entry.bytes
            ));
        }
        crc.update(bytes);
        to.write_all(bytes)?;
    }
    if found != entry.bytes {
        return refused(format!(
            "`{name}` is {found} bytes and not the {} it says",
            entry.bytes
        ));
    }
    match crc.sum() == entry.crc {
        true => Ok(()),
        false => refused(format!(
            "the content of `{name}` does not match its checksum"
        )),
    }
}

/// Whether a file starts as an archive or a packed file does.
fn is_archive(start: &[u8]) -> bool {
    const STARTS: [&[u8]; 8] = [
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\x1f\x8b",
        b"7z\xbc\xaf\x27\x1c",
        b"Rar!\x1a\x07",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"BZh91AY&SY",
    ];
    let is_tar = start.get(257..262) == Some(b"ustar");
    is_tar || STARTS.iter().any(|magic| start.starts_with(magic))
}

/// A part of an open file.
struct Part<'f> {
    file: &'f File,
    position: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most) else {
            return Ok(0);
        };
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Fills a folder that is there whole or not at all. `target` is absent, or an empty folder.
///
/// # Errors
/// A target with something in it, and what `fill` fails with: then nothing is left.
pub(crate) fn whole_folder<E: From<ReadError>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let io = |error: io::Error| E::from(ReadError::Io(error));
    match std::fs::read_dir(target).map(Iterator::count) {
        Ok(count) if count > 0 => {
            let why = format!(
                "`{}` is not empty; name a folder that is not there yet",
                target.display()
            );
            return Err(ReadError::Refused(why).into());
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(io)?;
    let beside = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempdir_in(parent)
        .map_err(io)?;
    // Within the temporary folder, which nobody else may enter, one with the ordinary rights.
    let filled = beside.path().join("folder");
    std::fs::create_dir(&filled).map_err(io)?;
    fill(&filled)?;
    std::fs::rename(&filled, target).map_err(io)
}

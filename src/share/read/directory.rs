//! The directory of an archive, and the headers of its entries, which must say the same.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Entry, MOST_BYTES, MOST_ENTRIES, MOST_RATIO, ReadError, SMALL_BYTES, refused};

const END: u32 = 0x0605_4b50;
const IN_DIRECTORY: u32 = 0x0201_4b50;
const BEFORE_CONTENT: u32 = 0x0403_4b50;
const END_BYTES: usize = 22;
const DIRECTORY_BYTES: usize = 46;
const HEADER_BYTES: usize = 30;
const MOST_NAME_BYTES: usize = 512;

/// Flags that say nothing of how an entry is read: the effort of the compression.
const EFFORT: u16 = 0b110;
const NAME_IS_UTF_8: u16 = 1 << 11;
const ENCRYPTED: u16 = 1;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
const KIND_OF_FILE: u32 = 0o170_000;
const ORDINARY: u32 = 0o100_000;

/// Reads numbers and names off the front of some bytes.
struct Front<'b>(&'b [u8]);

impl<'b> Front<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], ReadError> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            return refused("its directory is damaged: it ends within an entry");
        };
        self.0 = rest;
        Ok(taken)
    }

    fn short(&mut self) -> Result<u16, ReadError> {
        let bytes = self.take(2)?.iter().rev();
        Ok(bytes.fold(0, |number, byte| (number << 8) | u16::from(*byte)))
    }

    fn long(&mut self) -> Result<u32, ReadError> {
        let bytes = self.take(4)?.iter().rev();
        Ok(bytes.fold(0, |number, byte| (number << 8) | u32::from(*byte)))
    }
}

/// The entries of an archive, in its order and with their whole names.
pub(super) fn read(file: &File) -> Result<Vec<Entry>, ReadError> {
    let (count, start, bytes) = read_end(file)?;
    let mut directory = vec![0; bytes];
    file.read_exact_at(&mut directory, start)?;
    let mut front = Front(&directory);
    let mut entries = Vec::new();
    let (mut position, mut total) = (0, 0);
    for _ in 0..count {
        let (entry, end) = read_entry(file, &mut front, position)?;
        total += entry.bytes;
        position = end;
        if total > MOST_BYTES {
            return refused(format!(
                "it would be more than {MOST_BYTES} bytes on the disk"
            ));
        }
        entries.push(entry);
    }
    if position != start {
        return refused("there are bytes between its entries and its directory");
    }
    if !front.0.is_empty() {
        return refused("its directory is damaged: it has more than it says");
    }
    Ok(entries)
}

/// How many entries there are, and where their directory starts and how long it is.
fn read_end(file: &File) -> Result<(usize, u64, usize), ReadError> {
    let length = file.metadata()?.len();
    let Some(end_start) = length.checked_sub(END_BYTES as u64) else {
        return refused("it is no file of `dial export`: it is too short for an archive");
    };
    let mut end = [0; END_BYTES];
    file.read_exact_at(&mut end, end_start)?;
    let mut end = Front(&end);
    if end.long()? != END {
        return refused(
            "it is no file of `dial export`, or it was cut off: it does not end as an archive does",
        );
    }
    let disks = [end.short()?, end.short()?];
    let counts = [end.short()?, end.short()?];
    let (bytes, start) = (end.long()?, end.long()?);
    let comment = end.short()?;
    if counts.contains(&u16::MAX) || bytes == u32::MAX || start == u32::MAX {
        return refused(
            "it is an archive of the long form (zip64), which `dial export` does not write",
        );
    }
    if disks != [0, 0] || counts[0] != counts[1] || comment != 0 {
        return refused("its end is damaged: it speaks of several disks or of a comment");
    }
    if u64::from(start) + u64::from(bytes) != end_start {
        return refused("its directory is damaged: it does not lie where its end says");
    }
    let count = usize::from(counts[0]);
    if count > MOST_ENTRIES || bytes as usize > count * (DIRECTORY_BYTES + MOST_NAME_BYTES) {
        return refused(format!(
            "it has {count} entries in a directory of {bytes} bytes; at most {MOST_ENTRIES} are read, of {MOST_NAME_BYTES} bytes of name each"
        ));
    }
    Ok((count, u64::from(start), bytes as usize))
}

/// The next entry of the directory, which must start at `position` of the archive, and where it ends there.
fn read_entry(
    file: &File,
    front: &mut Front<'_>,
    position: u64,
) -> Result<(Entry, u64), ReadError> {
    let whole = front.0;
    if front.long()? != IN_DIRECTORY {
        return refused("its directory is damaged: an entry does not start as one does");
    }
    front.take(4)?;
    let (flags, method) = (front.short()?, front.short()?);
    front.take(4)?;
    let (crc, packed, bytes) = (front.long()?, front.long()?, front.long()?);
    let name_bytes = usize::from(front.short()?);
    let more = [front.short()?, front.short()?, front.short()?];
    front.take(2)?;
    let (mode, start) = (front.long()? >> 16, front.long()?);
    let name = front.take(name_bytes)?;
    let Ok(name) = String::from_utf8(name.to_vec()) else {
        return refused("the name of an entry is no UTF-8");
    };
    let entry = Entry {
        bytes: u64::from(bytes),
        start: position + (HEADER_BYTES + name_bytes) as u64,
        packed: u64::from(packed),
        is_deflated: method == DEFLATED,
        crc,
        name,
    };
    let name = &entry.name;
    if flags & ENCRYPTED != 0 {
        return refused(format!("`{name}` is encrypted"));
    }
    if flags & !(EFFORT | NAME_IS_UTF_8) != 0 || (flags & NAME_IS_UTF_8 == 0 && !name.is_ascii()) {
        return refused(format!(
            "`{name}` has flags ({flags:#06x}) that `dial export` does not set"
        ));
    }
    if ![STORED, DEFLATED].contains(&method) || (method == STORED && packed != bytes) {
        return refused(format!(
            "`{name}` is packed in a way (method {method}) that `dial export` does not use"
        ));
    }
    if packed == u32::MAX || bytes == u32::MAX || more != [0; 3] {
        return refused(format!(
            "`{name}` has fields of the long form (zip64), a comment or other additions, which `dial export` does not write"
        ));
    }
    if ![0, ORDINARY].contains(&(mode & KIND_OF_FILE)) || name.ends_with('/') {
        return refused(format!(
            "`{name}` is no ordinary file but a link, a folder or the like"
        ));
    }
    if entry.bytes > SMALL_BYTES && entry.bytes / MOST_RATIO > entry.packed {
        return refused(format!(
            "`{name}` would be {} bytes of {}, and one byte may become {MOST_RATIO}",
            entry.bytes, entry.packed
        ));
    }
    if u64::from(start) != position {
        return refused(format!(
            "there are bytes before `{name}`, or it lies over another entry"
        ));
    }
    check_header(file, &entry, whole, position)?;
    let end = entry.start + entry.packed;
    Ok((entry, end))
}

/// Checks that the header in front of an entry says what the directory says of it.
fn check_header(
    file: &File,
    entry: &Entry,
    in_directory: &[u8],
    position: u64,
) -> Result<(), ReadError> {
    let name = entry.name.as_bytes();
    let mut header = vec![0; HEADER_BYTES + name.len()];
    if position + header.len() as u64 + entry.packed > file.metadata()?.len() {
        return refused(format!("`{}` is larger than the archive", entry.name));
    }
    file.read_exact_at(&mut header, position)?;
    // Flags, method, time, checksum and lengths: the same fields in the same order.
    let agrees = Front(&header).long()? == BEFORE_CONTENT
        && header.get(6..HEADER_BYTES) == in_directory.get(8..32)
        && header.get(HEADER_BYTES..) == Some(name);
    match agrees {
        true => Ok(()),
        false => refused(format!(
            "what stands before `{}` is not what the directory says of it",
            entry.name
        )),
    }
}

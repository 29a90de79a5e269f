//! The archive: entries in the order of their names, with nothing in it that differs from one writing to the next.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io::{self, Error, ErrorKind, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use unicode_normalization::UnicodeNormalization;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

/// From there on an entry needs the long form of sizes. Compressed it may be a little longer than it is.
const LONG_BYTES: usize = 0xF000_0000;

/// An archive that is being written.
pub(crate) struct Archive<W: Write + Seek> {
    zip: ZipWriter<W>,
    /// The one folder that every entry is in.
    top: String,
    /// The names so far, by what they are where neither case nor the form of a character counts.
    names: HashMap<String, String>,
    last: String,
}

impl<W: Write + Seek> Archive<W> {
    /// An archive of entries below the folder `top`.
    pub(crate) fn new(to: W, top: &str) -> Self {
        Archive {
            zip: ZipWriter::new(to),
            top: top.to_string(),
            names: HashMap::new(),
            last: String::new(),
        }
    }

    /// Adds a file. `name` is its place in the folder, and comes after those of the files before it.
    ///
    /// # Errors
    /// A name that is out of order, or that is another's on some system.
    pub(crate) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        if *name <= *self.last {
            let message = format!("the entry `{name}` comes after `{}`", self.last);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.last = name.to_string();
        if let Some(other) = self.names.insert(folded(name), name.to_string()) {
            let message = format!(
                "`{other}` and `{name}` would be one file where case makes no difference; rename one of the stages"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(6))
            .last_modified_time(DateTime::DEFAULT)
            .system(System::Unix)
            .unix_permissions(0o644)
            .large_file(content.len() >= LONG_BYTES);
        self.zip
            .start_file(format!("{}/{name}", self.top), options)?;
        self.zip.write_all(content)
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<W> {
        Ok(self.zip.finish()?)
    }
}

/// A name as a system sees it for which neither case nor the form of a character counts.
pub(crate) fn folded(name: &str) -> String {
    name.nfkc().collect::<String>().to_lowercase()
}

/// Writes a file that is there whole or not at all: it gets a name when it is on the disk. Whoever is killed before leaves nothing.
pub(crate) fn whole(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let mut unnamed = tempfile::tempfile_in(folder)?;
    write(&mut unnamed)?;
    unnamed.sync_all()?;
    // The ordinary mode, narrowed by the umask.
    let mode = Permissions::from_mode(0o666);
    let mut beside = tempfile::Builder::new();
    beside.prefix(".tmp-").permissions(mode);
    let named = match beside.make_in(folder, |beside| link(&unnamed, beside)) {
        Ok(named) => named.into_temp_path(),
        // Some file systems have no files without a name.
        Err(_) => {
            let mut copy = beside.tempfile_in(folder)?;
            unnamed.rewind()?;
            io::copy(&mut unnamed, copy.as_file_mut())?;
            copy.as_file().sync_all()?;
            copy.into_temp_path()
        }
    };
    named.persist(path).map_err(|error| error.error)
}

/// Gives a file without a name the name `path`, which no file may have.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: both are texts that end in a zero, and are there until the call returns.
    match unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use zip::ZipArchive;

    use super::*;

    fn archive(entries: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
        let mut archive = Archive::new(Cursor::new(Vec::new()), "top-0");
        for (name, content) in entries {
            archive.add(name, content)?;
        }
        Ok(archive.finish()?.into_inner())
    }

    #[test]
    fn entries_come_back_from_one_folder_without_a_time() {
        let entries = [("README.md", &b"text"[..]), ("a/empty", b""), ("b", b"b")];
        let bytes = archive(&entries).unwrap();
        let mut read = ZipArchive::new(Cursor::new(&bytes)).unwrap();
        assert_eq!(read.len(), 3);
        for (number, (name, content)) in entries.iter().enumerate() {
            let mut entry = read.by_index(number).unwrap();
            assert_eq!(entry.name(), format!("top-0/{name}"));
            assert_eq!(entry.last_modified(), Some(DateTime::DEFAULT));
            assert_eq!(entry.unix_mode(), Some(0o100_644));
            assert!(entry.extra_data().unwrap_or_default().is_empty());
            let mut found = Vec::new();
            entry.read_to_end(&mut found).unwrap();
            assert_eq!(found, *content);
        }
        assert_eq!(archive(&entries).unwrap(), bytes);
    }

    #[test]
    fn names_out_of_order_or_alike_are_refused() {
        let refused = |names: [&str; 2]| {
            let error = archive(&names.map(|name| (name, &b""[..]))).unwrap_err();
            error.to_string()
        };
        assert!(refused(["b", "a"]).contains("comes after"));
        assert!(refused(["a", "a"]).contains("comes after"));
        assert!(refused(["A.csv", "a.csv"]).contains("one file where case"));
        assert!(refused(["A\u{301}", "\u{c1}"]).contains("one file where case"));
    }

    #[test]
    fn what_fails_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.zip");
        whole(&path, |file| file.write_all(b"old")).unwrap();
        let failed = whole(&path, |file| {
            file.write_all(b"ne")?;
            assert_eq!(
                std::fs::read_dir(folder.path())?.count(),
                1,
                "it has a name"
            );
            Err(Error::other("stopped"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "stopped");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

//! What a file's content is known by.

use std::fs::File;
use std::io::{self, Read, Seek};

use sha1::Sha1;
use sha2::Sha256;

/// A digest of a file's content, as the hub names contents by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    /// Of large files: SHA-256, 64 hexadecimal digits.
    Sha256(String),
    /// Of the others: git's name of a blob, SHA-1 of `blob <length>\0` and the content; 40 hexadecimal digits. Some mirrors leave git's
    /// head away, which serves as well.
    GitBlob(String),
}

impl Digest {
    /// Reads 40 or 64 hexadecimal digits; none for anything else, so that a digest is a safe name of a file.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        match text.len() {
            40 => Some(Self::GitBlob(text.to_string())),
            64 => Some(Self::Sha256(text.to_string())),
            _ => None,
        }
    }

    pub(crate) fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }

    /// Whether the content of the file, from its beginning, has this digest.
    pub(crate) fn is_of_file(&self, file: &mut File) -> io::Result<bool> {
        file.rewind()?;
        let length = file.metadata()?.len();
        self.is_of(length, file)
    }

    pub(crate) fn is_of_bytes(&self, bytes: &[u8]) -> bool {
        // Reading from memory does not fail.
        self.is_of(bytes.len() as u64, bytes).unwrap_or(false)
    }

    fn is_of(&self, length: u64, content: impl Read) -> io::Result<bool> {
        match self {
            Self::Sha256(digits) => Ok(sha256_of(content)?.eq_ignore_ascii_case(digits)),
            Self::GitBlob(digits) => {
                use sha1::Digest;
                let (mut blob, mut plain) = (Sha1::new(), Sha1::new());
                blob.update(format!("blob {length}\0"));
                each_part(content, |part| {
                    blob.update(part);
                    plain.update(part);
                })?;
                let found = [blob.finalize(), plain.finalize()];
                let mut found = found.iter().map(|hash| hex(hash));
                Ok(found.any(|found| found.eq_ignore_ascii_case(digits)))
            }
        }
    }
}

fn each_part(mut content: impl Read, mut part: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => part(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 in lower-case hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&<Sha256 as sha2::Digest>::digest(bytes))
}

/// The same of what is read, without holding it.
///
/// # Errors
/// Those of reading.
pub(crate) fn sha256_of(content: impl Read) -> io::Result<String> {
    use sha2::Digest;
    let mut hasher = Sha256::new();
    each_part(content, |part| hasher.update(part))?;
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_of_sha256() {
        // `printf hello | git hash-object --stdin`, `printf hello | sha1sum`, `printf hello | sha256sum`
        for digits in [
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
            "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d",
            "2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824",
        ] {
            let digest = Digest::parse(digits).unwrap();
            assert!(digest.is_of_bytes(b"hello"), "{digits}");
            assert!(!digest.is_of_bytes(b"hello "), "{digits}");
        }
    }

    #[test]
    fn only_digits_are_a_digest() {
        let sixty_four = "a".repeat(64);
        for bad in [
            "",
            "../../x",
            "/etc/passwd",
            "a",
            &sixty_four[1..],
            &"g".repeat(40),
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
        assert_eq!(Digest::parse(&sixty_four).unwrap().digits(), sixty_four);
    }
}

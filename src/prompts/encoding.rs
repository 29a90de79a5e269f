//! Files that are not UTF-8, as their byte order mark says.

use std::borrow::Cow;

use super::collect::Collector;

/// The content as UTF-8, without byte order mark. UTF-16 is said; what cannot be read is reported, and gives nothing.
pub(super) fn as_utf8<'c>(content: &'c [u8], collector: &mut Collector) -> Option<Cow<'c, [u8]>> {
    if content.starts_with(b"\xFF\xFE\0\0") || content.starts_with(b"\0\0\xFE\xFF") {
        let message = "the file is UTF-32 by its byte order mark; save it as UTF-8";
        collector.report(1, message.to_string());
        return None;
    }
    let (name, unit): (_, fn([u8; 2]) -> u16) = match content {
        [0xFF, 0xFE, ..] => ("little-endian", u16::from_le_bytes),
        [0xFE, 0xFF, ..] => ("big-endian", u16::from_be_bytes),
        _ => {
            let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
            return Some(Cow::Borrowed(content));
        }
    };
    let (pairs, rest) = content[2..].as_chunks::<2>();
    let mut text = String::with_capacity(content.len() / 2);
    for unit in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        match unit {
            Ok(character) => text.push(character),
            Err(half) => {
                let line = line_at_end(&text);
                let message = format!(
                    "half of a character (0x{:04X}) in UTF-16, of which the other half is missing; put the whole character there or take it out",
                    half.unpaired_surrogate()
                );
                collector.report(line, message);
                return None;
            }
        }
    }
    if !rest.is_empty() {
        let message = "the file is UTF-16 and ends in the middle of a character; get it again";
        collector.report(line_at_end(&text), message.to_string());
        return None;
    }
    collector.note(format!(
        "the file is UTF-16 ({name}) by its byte order mark, and is read as such"
    ));
    Some(Cow::Owned(text.into_bytes()))
}

fn line_at_end(text: &str) -> usize {
    text.matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::PromptSet;

    const TEXT: &str = "{\"id\": 1, \"prompt\": \"Où est le café 😀?\"}\n";

    fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let text = format!("\u{feff}{text}");
        text.encode_utf16().flat_map(unit).collect()
    }

    fn problem(content: &[u8]) -> String {
        let read = PromptSet::read(Path::new("p.jsonl"), content);
        read.unwrap_err().to_string()
    }

    #[test]
    fn utf16_is_read_and_said_and_gives_the_same_content() {
        let path = Path::new("p.jsonl");
        let plain = PromptSet::read(path, TEXT.as_bytes()).unwrap();
        assert_eq!(plain.findings(), Vec::<String>::new());
        for (unit, name) in [
            (u16::to_le_bytes as fn(u16) -> [u8; 2], "little-endian"),
            (u16::to_be_bytes, "big-endian"),
        ] {
            let set = PromptSet::read(path, &utf16(TEXT, unit)).unwrap();
            assert_eq!(set.content_hash(), plain.content_hash());
            assert!(set.findings()[0].contains(name), "{:?}", set.findings());
        }
    }

    #[test]
    fn what_is_cut_off_is_told_with_its_line() {
        let mut content = utf16("\n\nx", u16::to_le_bytes);
        content.push(0);
        assert!(problem(&content).starts_with("p.jsonl:3: the file is UTF-16 and ends in"));
        let mut content = utf16("\nx", u16::to_le_bytes);
        content.extend([0x3d, 0xd8, 0x20, 0x00]);
        assert!(problem(&content).starts_with("p.jsonl:2: half of a character (0xD83D) in UTF-16"));
        assert!(problem(b"\xFF\xFE\0\0x\0\0\0").starts_with("p.jsonl:1: the file is UTF-32"));
    }
}

//! How much a study may hold. A few bytes of text can stand for gigabytes (an alias of an alias, a long name with many values below
//! it), so what a value takes in memory is counted before it is made.

/// Bytes of the longest name of a field; also the longest name that a file can have.
pub(super) const LONGEST_NAME: usize = 255;
/// Memory that the values of a study may take, with their names.
pub(super) const MOST_BYTES: usize = 1 << 30;
/// What a value takes beside its text and its dotted path.
const BYTES_OF_A_VALUE: usize = 128;

/// The room that is left for values.
#[derive(Default)]
pub(super) struct Room {
    /// Bytes that are taken.
    pub(super) taken: usize,
    is_refused: bool,
}

impl Room {
    /// Whether no further value fits.
    pub(super) fn is_full(&self) -> bool {
        self.taken > MOST_BYTES - BYTES_OF_A_VALUE
    }

    /// Takes room for a value with so many bytes of text and path. Whether there is enough.
    pub(super) fn take(&mut self, text_bytes: usize) -> bool {
        let bytes = text_bytes.saturating_add(BYTES_OF_A_VALUE);
        let taken = self.taken.saturating_add(bytes);
        self.taken = taken.min(MOST_BYTES);
        taken <= MOST_BYTES
    }

    /// What to say once there is no room; none when it has been said.
    pub(super) fn refusal(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.is_refused, true) {
            return None;
        }
        Some(format!(
            "the study holds more than it can: its values and their names would take more than {} MiB",
            MOST_BYTES >> 20
        ))
    }
}

/// A text for a message: its start where it is long.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_runs_out_and_says_so_once() {
        let mut room = Room::default();
        assert!(room.take(MOST_BYTES / 2));
        assert!(room.take(100));
        assert!(!room.take(MOST_BYTES / 2));
        assert!(!room.take(usize::MAX));
        assert!(room.refusal().unwrap().ends_with("more than 1024 MiB"));
        assert_eq!(room.refusal(), None);
    }

    #[test]
    fn long_names_are_shortened() {
        assert_eq!(shortened("alpha"), "alpha");
        assert_eq!(shortened(&"é".repeat(300)), format!("{}…", "é".repeat(40)));
    }
}

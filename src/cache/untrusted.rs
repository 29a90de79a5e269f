//! Packs that are whole and yet hold a value that cannot be right.
//!
//! Checking content against names proves that a file is as it was written. It does not prove that a value belongs to its key: that a
//! pack says so is believed. Two packs that hold one cell with different values show that at least one of them is wrong, and nothing
//! says which; a value that no evaluation can give shows it of a single one. Such packs are discarded, all that they hold.

use std::fmt;

use super::{Cache, FileKind, Key};

/// Packs that are not to be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted {
    pub(crate) packs: Vec<Key>,
    /// What shows that they cannot be right.
    pub(crate) reason: String,
}

impl Untrusted {
    /// Packs that hold one cell with different values.
    pub(super) fn at_odds(mut packs: Vec<Key>) -> Self {
        packs.sort_unstable();
        // A pack may hold a cell twice.
        packs.dedup();
        let reason = match packs.as_slice() {
            [_] => "it holds one cell twice, with different values".to_string(),
            _ => format!(
                "{} hold one cell with different values, and nothing says which is right",
                named(&packs)
            ),
        };
        Untrusted { packs, reason }
    }
}

/// File names of packs.
fn named(packs: &[Key]) -> String {
    let names: Vec<String> = packs.iter().map(|pack| format!("`{pack}.pack`")).collect();
    names.join(" and ")
}

impl fmt::Display for Untrusted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} cannot be trusted: {}",
            named(&self.packs),
            self.reason
        )
    }
}

impl Cache {
    /// Moves packs aside and says so; their cells count as missing from here on, unless other packs hold them.
    pub(crate) fn discard(&self, untrusted: &Untrusted) {
        for pack in &untrusted.packs {
            let path = self.layout.file(FileKind::Pack, pack);
            self.layout.set_aside(&path, &untrusted.reason);
            self.cells.forget(pack);
        }
    }
}

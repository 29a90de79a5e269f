//! Tables of two versions of this program, compared as numbers.

use std::path::Path;

use crate::files;

/// How far a number may be from another, relative to the larger of 1 and the first: versions may add up in another order.
const TOLERANCE: f64 = 1e-9;

/// How the table in a file differs from one made here; none where it does not. Of a table's two forms the CSV is compared.
pub(super) fn differ(path: &Path, again: Option<&[u8]>) -> Option<String> {
    if path.extension().is_none_or(|extension| extension != "csv") {
        return None;
    }
    let stored = files::read(path, files::DATA_BYTES).ok();
    let (Some(stored), Some(again)) = (stored, again) else {
        return Some("cannot be read".to_string());
    };
    let (stored, again) = (rows(&stored), rows(again));
    if stored.len() != again.len() {
        return Some(format!(
            "has {} rows, and {} follow",
            stored.len(),
            again.len()
        ));
    }
    let mut pairs = stored.iter().zip(&again).zip(1..);
    pairs.find_map(|((stored, again), row)| {
        let same = stored.len() == again.len() && stored.iter().zip(again).all(agree);
        let (stored, again) = (stored.join(","), again.join(","));
        (!same).then(|| format!("row {row} is `{stored}`, and `{again}` follows"))
    })
}

fn rows(bytes: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let rows = reader.records().map_while(Result::ok);
    rows.map(|row| row.iter().map(str::to_string).collect())
        .collect()
}

fn agree((stored, again): (&String, &String)) -> bool {
    if stored == again {
        return true;
    }
    match (stored.parse::<f64>(), again.parse::<f64>()) {
        (Ok(stored), Ok(again)) => (stored - again).abs() <= TOLERANCE * stored.abs().max(1.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_differ_in_the_last_digits_and_nothing_else_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steer.csv");
        let stored = "id,score\na,0.1\nb,12345.678901234567\nc,\n";
        std::fs::write(&path, stored).unwrap();
        let to = |again: &str| differ(&path, Some(again.as_bytes()));
        assert_eq!(to(stored), None);
        assert_eq!(to("id,score\na,0.1\nb,12345.678901234599\nc,\n"), None);
        let row = |again: &str| to(again).unwrap();
        assert_eq!(
            row("id,score\na,0.1001\nb,12345.678901234567\nc,\n"),
            "row 2 is `a,0.1`, and `a,0.1001` follows"
        );
        assert!(row("id,score\na,0.1\nb,12345.678901234567\nc,0\n").starts_with("row 4"));
        assert!(row("id,score\nx,0.1\nb,12345.678901234567\nc,\n").starts_with("row 2"));
        assert!(row("id,score,n\na,0.1\nb,12345.678901234567\nc,\n").starts_with("row 1"));
        assert_eq!(row("id,score\na,0.1\n"), "has 4 rows, and 2 follow");
    }
}

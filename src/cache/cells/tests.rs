//! Packs in one index: damage, two processes, one cell in several packs.

use std::path::PathBuf;

use serde_json::json;

use super::*;

type Cell = (Key, Vec<u8>);

fn cells(numbers: std::ops::Range<u32>) -> Vec<Cell> {
    let value = |number: u32| vec![number.to_le_bytes()[0]; 8 + number as usize % 40];
    numbers
        .map(|number| (Key::of(&number.to_le_bytes()), value(number)))
        .collect()
}

fn batch(cells: &[Cell]) -> Batch {
    let mut batch = Batch::default();
    cells
        .iter()
        .for_each(|(key, value)| batch.push(*key, value));
    batch
}

fn store(folder: &tempfile::TempDir) -> CellStore {
    CellStore::new(Layout::new(folder.path()))
}

/// A folder with one pack of `cells`, and that pack's path.
fn committed(cells: &[Cell]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    store(&folder)
        .commit(&batch(cells), &json!({"t": 1}))
        .unwrap();
    let packs = pack_paths(&folder);
    assert_eq!(packs.len(), 1);
    (folder, packs[0].clone())
}

fn pack_paths(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    let files = Layout::new(folder.path()).files(FileKind::Pack).unwrap();
    files.into_iter().map(|(_, path)| path).collect()
}

fn assert_holds(store: &CellStore, cells: &[Cell]) {
    for (key, value) in cells {
        assert!(store.place(key).unwrap().is_some());
        assert_eq!(store.get(key).unwrap().as_ref(), Some(value));
    }
}

fn assert_lacks(store: &CellStore, cells: &[Cell]) {
    for (key, _) in cells {
        assert_eq!(store.get(key).unwrap(), None);
        assert!(store.place(key).unwrap().is_none());
    }
}

#[test]
fn cells_round_trip_in_this_store_and_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    let (one, two, three) = (cells(0..30), cells(30..90), cells(90..91));
    first.commit(&batch(&one), &json!({})).unwrap();
    assert_lacks(&first, &two);
    first
        .commit(&batch(&two), &json!({"device": "cpu"}))
        .unwrap();
    assert_holds(&first, &one);
    assert_holds(&first, &two);
    assert_lacks(&first, &three);
    let second = store(&folder);
    assert_holds(&second, &two);
    assert_holds(&second, &one);
    assert_lacks(&second, &three);
}

#[test]
fn an_empty_value_is_a_value_and_an_empty_batch_no_pack() {
    let cell = [(Key::of(b"empty"), Vec::new())];
    let (folder, _) = committed(&cell);
    assert_holds(&store(&folder), &cell);
    store(&folder).commit(&batch(&[]), &json!({})).unwrap();
    assert_eq!(pack_paths(&folder).len(), 1);
}

#[test]
fn two_stores_see_each_other_after_refresh() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(&folder), store(&folder));
    let (left, right) = (cells(0..10), cells(10..20));
    assert_lacks(&one, &right);
    assert_lacks(&two, &left);
    one.commit(&batch(&left), &json!({})).unwrap();
    two.commit(&batch(&right), &json!({})).unwrap();
    assert_lacks(&one, &right);
    one.refresh().unwrap();
    two.refresh().unwrap();
    for store in [&one, &two] {
        assert_holds(store, &left);
        assert_holds(store, &right);
    }
}

#[test]
fn concurrent_commits_of_the_same_content_make_one_pack() {
    let folder = tempfile::tempdir().unwrap();
    let shared = store(&folder);
    let cells = cells(0..200);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (folder, shared, cells) = (&folder, &shared, &cells);
            scope.spawn(move || {
                let own = store(folder);
                let store = if thread % 2 == 0 { shared } else { &own };
                store.commit(&batch(cells), &json!({})).unwrap();
                store.refresh().unwrap();
                assert_holds(store, cells);
            });
        }
    });
    assert_eq!(pack_paths(&folder).len(), 1);
    assert_holds(&shared, &cells);
}

/// Opens a store on a pack with this content: the cells are missing, the pack is moved aside, and a new
/// commit mends it in the same store.
fn assert_refused(damage: &[u8], cells: &[Cell]) {
    let (folder, path) = committed(cells);
    std::fs::write(&path, damage).unwrap();
    let store = store(&folder);
    assert_lacks(&store, cells);
    assert!(!path.exists());
    let kept = folder
        .path()
        .join("v1/damaged")
        .join(path.file_name().unwrap());
    assert_eq!(std::fs::read(kept).unwrap(), damage);
    store.commit(&batch(cells), &json!({"t": 1})).unwrap();
    assert_holds(&store, cells);
}

#[test]
fn every_truncation_is_refused() {
    let cells = cells(0..20);
    let (_folder, path) = committed(&cells);
    let good = std::fs::read(path).unwrap();
    for length in (0..good.len()).step_by(64).chain([good.len() - 1]) {
        assert_refused(&good[..length], &cells);
    }
}

#[test]
fn a_flipped_bit_anywhere_and_a_longer_file_are_refused() {
    let cells = cells(0..6);
    let (_folder, path) = committed(&cells);
    let good = std::fs::read(path).unwrap();
    for position in (0..good.len()).step_by(5) {
        let mut flipped = good.clone();
        flipped[position] ^= 1 << (position % 8);
        assert_refused(&flipped, &cells);
    }
    assert_refused(&[&good[..], b"x"].concat(), &cells);
}

#[test]
fn a_pack_under_another_s_name_is_refused() {
    let (_other, other_path) = committed(&cells(5..9));
    let other = std::fs::read(other_path).unwrap();
    let cells = cells(0..4);
    let (folder, path) = committed(&cells);
    std::fs::write(&path, other).unwrap();
    let store = store(&folder);
    assert_lacks(&store, &cells);
    assert_lacks(&store, &self::cells(5..9));
}

#[test]
fn a_wrong_pack_that_is_mended_after_indexing_gives_no_wrong_value() {
    // The same keys with their values exchanged: sound headers, other content.
    let (keys, values): (Vec<Key>, Vec<Vec<u8>>) = cells(0..4).into_iter().unzip();
    let exchanged: Vec<Cell> = keys.into_iter().zip(values.into_iter().rev()).collect();
    let (_other, other_path) = committed(&exchanged);
    let cells = cells(0..4);
    let (folder, path) = committed(&cells);
    let good = std::fs::read(&path).unwrap();
    std::fs::copy(other_path, &path).unwrap();
    let store = store(&folder);
    assert!(store.place(&cells[0].0).unwrap().is_some());
    std::fs::write(&path, &good).unwrap();
    assert_lacks(&store, &cells);
    assert_eq!(std::fs::read(&path).unwrap(), good);
    assert_holds(&self::store(&folder), &cells);
}

#[test]
fn a_bit_that_flips_after_the_pack_was_checked_is_found() {
    let cells = cells(0..6);
    let (_folder, path) = committed(&cells);
    let store = store(&_folder);
    assert_holds(&store, &cells[..1]);
    // In place, under the file that is open.
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 8;
    let file = File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    assert_eq!(store.get(&cells[5].0).unwrap(), None);
    assert!(!path.exists(), "it is moved aside");
}

#[test]
fn a_cell_that_two_packs_hold_survives_the_damage_of_one() {
    let both = cells(0..10);
    let (folder, path) = committed(&both);
    store(&folder)
        .commit(&batch(&both), &json!({"t": 2}))
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_holds(&store(&folder), &both);
}

#[test]
fn packs_that_hold_a_cell_with_different_values_are_named_and_neither_is_used() {
    let (folder, _) = committed(&cells(0..10));
    let (key, mut value) = cells(3..4).remove(0);
    value[0] ^= 1;
    let own = store(&folder);
    // One that comes while the store is open is compared, too.
    assert_holds(&own, &cells(3..4));
    own.commit(&batch(&[(key, value)]), &json!({})).unwrap();
    let mut names: Vec<Key> = pack_paths(&folder)
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    names.sort_unstable();
    for store in [&own, &store(&folder)] {
        let Err(CacheError::Untrusted(untrusted)) = store.find(&key) else {
            panic!("it is served");
        };
        assert_eq!(untrusted.packs, names);
        for name in &names {
            assert!(untrusted.reason.contains(&name.to_string()));
            store.forget(name);
        }
        assert_lacks(store, &cells(0..10));
    }
}

#[test]
fn a_cell_twice_in_one_pack_is_compared_too() {
    let (key, value) = cells(3..4).remove(0);
    let twice = |second: Vec<u8>| {
        let (folder, _) = committed(&[(key, value.clone()), (key, second)]);
        store(&folder).find(&key)
    };
    assert!(twice(value.clone()).unwrap().is_some());
    let other = twice(vec![9; 4]).unwrap_err().to_string();
    assert!(other.contains("twice, with different values"), "{other}");
}

#[test]
fn of_three_packs_with_a_cell_two_may_go() {
    let both = cells(0..5);
    let (folder, _) = committed(&both);
    let store = store(&folder);
    for number in 2..4 {
        store.commit(&batch(&both), &json!({"t": number})).unwrap();
    }
    assert_holds(&store, &both);
    for path in &pack_paths(&folder)[..2] {
        std::fs::remove_file(path).unwrap();
    }
    // Those that are open stay so until they are asked from the disk again.
    store.open_packs.lock().unwrap().clear();
    assert_holds(&store, &both);
}

#[test]
fn a_pack_that_cannot_be_read_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let cells = cells(0..10);
    store(&folder).commit(&batch(&cells), &json!({})).unwrap();
    // A folder in the place of a pack cannot be read, not even by root.
    let name = Key::of(b"a folder");
    std::fs::create_dir_all(Layout::new(folder.path()).file(FileKind::Pack, &name)).unwrap();
    let store = store(&folder);
    assert_holds(&store, &cells);
    assert_eq!(store.get(&name).unwrap(), None);
}

#[test]
fn damage_in_one_pack_leaves_the_others_in_use() {
    let (folder, path) = committed(&cells(0..10));
    store(&folder)
        .commit(&batch(&cells(10..20)), &json!({}))
        .unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(length - 1).unwrap();
    let store = store(&folder);
    assert_lacks(&store, &cells(0..10));
    assert_holds(&store, &cells(10..20));
}

#[test]
fn a_vanished_pack_counts_as_missing() {
    let cells = cells(0..10);
    let (folder, path) = committed(&cells);
    let store = store(&folder);
    assert!(store.place(&cells[0].0).unwrap().is_some());
    std::fs::remove_file(path).unwrap();
    assert_lacks(&store, &cells);
    store.refresh().unwrap();
    store.commit(&batch(&cells), &json!({"t": 1})).unwrap();
    assert_holds(&store, &cells);
}

#[test]
fn other_files_in_the_folder_are_passed_over() {
    let cells = cells(0..3);
    let (folder, path) = committed(&cells);
    let shelf = path.parent().unwrap();
    std::fs::write(shelf.join(".tmp-1234"), b"half").unwrap();
    std::fs::write(shelf.join("notes.pack"), b"mine").unwrap();
    std::fs::write(shelf.parent().unwrap().join("README"), b"x").unwrap();
    assert_holds(&store(&folder), &cells);
    assert!(shelf.join("notes.pack").exists());
}

#[test]
fn many_packs_are_read_without_holding_them_all_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let cells = cells(0..3 * u32::try_from(OPEN_PACKS).unwrap());
    for cell in cells.chunks(1) {
        store.commit(&batch(cell), &json!({})).unwrap();
    }
    for _ in 0..2 {
        assert_holds(&store, &cells);
    }
    assert!(store.open_packs.lock().unwrap().len() <= OPEN_PACKS);
}

#[test]
fn a_hundred_thousand_cells_are_indexed_and_the_missing_found() {
    let folder = tempfile::tempdir().unwrap();
    let cells = cells(0..100_000);
    let (there, absent) = cells.split_at(99_000);
    for some in there.chunks(4_000) {
        self::store(&folder)
            .commit(&batch(some), &json!({}))
            .unwrap();
    }
    let store = self::store(&folder);
    let is_missing = |(key, _): &&Cell| store.place(key).unwrap().is_none();
    assert!(cells.iter().filter(is_missing).eq(absent));
    assert_holds(&store, &there[..1]);
    assert_holds(&store, &there[98_999..]);
}

use super::*;
use crate::cache::reading::list;

fn cells(numbers: std::ops::Range<u32>) -> Vec<Wanted> {
    numbers
        .map(|number| Wanted {
            key: Key::of(&number.to_le_bytes()),
            prompt: number / 10,
        })
        .collect()
}

fn lease(folder: &tempfile::TempDir) -> Lease {
    let run = PathBuf::from("/runs/one");
    Lease::start(&Layout::new(folder.path()), run, Purpose::Run)
}

fn files(folder: &tempfile::TempDir) -> usize {
    list(&Layout::new(folder.path()).leases()).unwrap().len()
}

#[test]
fn a_run_that_is_alone_claims_everything_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let alone = lease(&folder);
    let cells = cells(0..100);
    assert_eq!(alone.claim(&cells), (0..100).collect::<Vec<_>>());
    assert_eq!(files(&folder), 2);
    drop(alone);
    assert_eq!(files(&folder), 0);
}

#[test]
fn what_one_has_claimed_the_other_leaves_and_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (lease(&folder), lease(&folder));
    let cells = cells(0..100);
    assert_eq!(one.claim(&cells[..60]).len(), 60);
    assert_eq!(two.claim(&cells), (60..100).collect::<Vec<_>>());
    assert!(two.claim(&cells[..60]).is_empty());
    assert!(lock(&two.shared.own).waits_for.is_empty());
    two.wait_for(&cells[..60]);
    let waits_for = lock(&two.shared.own).waits_for.clone();
    assert_eq!(waits_for, [one.shared.id]);
    // One hears of it at its next beat, and keeps the first half of its prompts.
    let others = one.shared.live_others();
    assert_eq!(others[0].beat.waits_for, waits_for);
    one.shared.is_waited_for.store(true, Ordering::Relaxed);
    assert_eq!(one.claim(&cells[..60]), (0..30).collect::<Vec<_>>());
    assert!(!one.is_asked_to_share());
    assert_eq!(two.claim(&cells[..60]), (30..60).collect::<Vec<_>>());
    one.release();
    assert_eq!(two.claim(&cells[..60]).len(), 60);
}

#[test]
fn a_beat_tells_a_holder_that_it_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (lease(&folder), lease(&folder));
    let cells = cells(0..20);
    one.claim(&cells);
    assert!(two.claim(&cells).is_empty());
    two.wait_for(&cells);
    let started = Instant::now();
    while !one.is_asked_to_share() {
        assert!(started.elapsed() < 100 * BEAT, "it never heard");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!two.is_asked_to_share());
}

/// Both claim at once, again and again: no cell is left to nobody, and none to both.
#[test]
fn of_two_that_claim_at_once_one_keeps_each_cell() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (lease(&folder), lease(&folder));
    let cells = cells(0..40);
    for _ in 0..50 {
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| one.claim(&cells));
            let second = scope.spawn(|| two.claim(&cells));
            (first.join().unwrap(), second.join().unwrap())
        });
        let mut both = [first.clone(), second.clone()].concat();
        both.sort_unstable();
        assert!(both.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(both.len(), 40, "each cell is somebody's");
        one.release();
        two.release();
    }
}

/// A lease as a run on another machine would have left it.
fn lease_from_elsewhere(folder: &tempfile::TempDir, cells: &[Wanted]) -> Key {
    let foreign = lease(folder);
    foreign.claim(cells);
    let id = Key::of(b"elsewhere");
    let mut beat = lock(&foreign.shared.own).clone();
    beat.process = serde_json::from_str(r#"{"here":"x","id":1,"started":"1"}"#).unwrap();
    let layout = Layout::new(folder.path());
    let bytes = std::fs::read(layout.lease(&foreign.shared.id, "cells")).unwrap();
    layout.write_lease(&id, "cells", &bytes);
    layout.write_lease(&id, "json", record::encode(&id, &beat).unwrap().as_bytes());
    id
}

#[test]
fn a_dead_run_s_cells_are_taken_over_when_its_time_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let cells = cells(0..30);
    let id = lease_from_elsewhere(&folder, &cells);
    let heir = lease(&folder);
    assert!(heir.claim(&cells).is_empty());
    // Ten seconds of the reader's clock, without the waiting.
    lock(&heir.shared.others).watch.age(STALE_AFTER);
    assert_eq!(heir.claim(&cells).len(), 30);
    assert!(!Layout::new(folder.path()).lease(&id, "json").exists());
}

#[test]
fn users_are_those_here_that_have_not_ended() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    assert_eq!(users(&layout, None).unwrap(), Users::default());
    let holder = lease(&folder);
    holder.claim(&cells(0..5));
    let expected = Users {
        runs: vec!["/runs/one".into()],
        collections: 0,
    };
    assert_eq!(users(&layout, None).unwrap(), expected);
}

#[test]
fn a_lease_that_cannot_be_read_stands_until_its_time_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let cells = cells(0..30);
    let id = lease_from_elsewhere(&folder, &cells);
    let layout = Layout::new(folder.path());
    let heir = lease(&folder);
    assert!(heir.claim(&cells).is_empty());
    for kind in ["json", "cells"] {
        std::fs::write(layout.lease(&id, kind), "{}").unwrap();
        assert!(heir.claim(&cells).is_empty());
        std::fs::remove_file(layout.lease(&id, kind)).unwrap();
        assert!(heir.claim(&cells).is_empty());
    }
    std::fs::write(layout.leases().join("README"), "x").unwrap();
    lock(&heir.shared.others).watch.age(STALE_AFTER);
    assert_eq!(heir.claim(&cells).len(), 30);
}

#[test]
fn a_claim_that_is_not_whole_claims_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cells = cells(0..30);
    let id = lease_from_elsewhere(&folder, &cells);
    let path = Layout::new(folder.path()).lease(&id, "cells");
    let claim = std::fs::read(&path).unwrap();
    std::fs::write(&path, &claim[..claim.len() - 3]).unwrap();
    let heir = lease(&folder);
    assert_eq!(heir.claim(&cells).len(), 30);
    heir.release();
    // And is read again once it is whole.
    std::fs::write(&path, &claim).unwrap();
    assert!(heir.claim(&cells).is_empty());
}

/// A run that slept too long wakes up beside the one that has taken its cells over: one of the two gives way.
#[test]
fn of_two_whose_claims_overlap_one_gives_way() {
    let folder = tempfile::tempdir().unwrap();
    let cells = cells(0..30);
    let (sleeper, heir) = (lease(&folder), lease(&folder));
    assert_eq!(sleeper.claim(&cells).len(), 30);
    remove(&Layout::new(folder.path()), &sleeper.shared.id);
    assert_eq!(heir.claim(&cells).len(), 30);
    let started = Instant::now();
    let gives_way = |lease: &Lease| lease.is_overruled();
    while !gives_way(&sleeper) && !gives_way(&heir) {
        assert!(started.elapsed() < 100 * BEAT, "both go on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (one, other) = match gives_way(&sleeper) {
        true => (&sleeper, &heir),
        false => (&heir, &sleeper),
    };
    assert!(one.claim(&cells).is_empty());
    assert!(!gives_way(other));
}

#[test]
fn who_collects_and_who_runs_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let cache = crate::cache::Cache::open(folder.path()).unwrap();
    let running = cache.lease(Path::new("/runs/one"));
    assert!(!running.sees_collection());
    let users = cache.lease_to_collect().unwrap().err().unwrap();
    assert_eq!(
        (users.runs, users.collections),
        (vec!["/runs/one".into()], 0)
    );
    drop(running);
    let collecting = cache.lease_to_collect().unwrap().ok().unwrap();
    assert!(cache.lease(Path::new("/runs/two")).sees_collection());
    let users = cache.lease_to_collect().unwrap().err().unwrap();
    assert_eq!((users.runs.len(), users.collections), (0, 1));
    drop(collecting);
    assert!(!cache.lease(Path::new("/runs/two")).sees_collection());
}

#[test]
fn a_folder_that_cannot_be_written_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("v1"), "a file in its place").unwrap();
    assert_eq!(lease(&folder).claim(&cells(0..7)).len(), 7);
}

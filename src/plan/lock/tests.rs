use super::*;

fn lock() -> Lock {
    let file = LockedFile::of(3, blake3::hash(b"abc"));
    let model = LockedModel {
        source: "hf:org/tiny".to_string(),
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_string()),
        dtype: "float32".to_string(),
        fingerprint: blake3::hash(b"model").to_hex().to_string(),
        tokenizer: blake3::hash(b"tokenizer").to_hex().to_string(),
        template: None,
        files: [("model.safetensors".to_string(), file.clone())].into(),
    };
    let set = LockedPrompts {
        path: "main.jsonl".to_string(),
        content: blake3::hash(b"prompts").to_hex().to_string(),
        count: 4,
    };
    Lock {
        format: FORMAT,
        evaluation: 1,
        environment: Environment {
            dial: "0.1.0".to_string(),
            libtorch: "2.11.0".to_string(),
            device: "cpu".to_string(),
            processor: None,
        },
        stages: [("score".to_string(), 1)].into(),
        models: [("inst".to_string(), model)].into(),
        prompts: [("main".to_string(), set)].into(),
        files: [("published/scores.csv".to_string(), file)].into(),
    }
}

fn told(old: &Lock, new: &Lock) -> Vec<String> {
    let changes = old.changes_to(new);
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_written_is_read() {
    let text = lock().to_text().unwrap();
    let back = Lock::parse(Path::new("study.lock"), &text).unwrap();
    assert_eq!(back, lock());
    assert_eq!(back.to_text().unwrap(), text);
    assert!(lock().changes_to(&back).is_empty());
}

#[test]
fn every_part_of_the_study_that_changes_is_told() {
    let changed = |change: fn(&mut Lock)| {
        let mut new = lock();
        change(&mut new);
        told(&lock(), &new)
    };
    assert_eq!(
        changed(|lock| lock.evaluation = 2),
        ["evaluation version: `1` → `2`"]
    );
    assert_eq!(
        changed(|lock| {
            lock.stages.insert("score".to_string(), 7);
        }),
        ["stage kind `score`, version: `1` → `7`"]
    );
    assert_eq!(
        changed(|lock| lock.prompts.clear()),
        [
            "prompt set `main`, content: `2c12fb61` → nothing",
            "prompt set `main`, prompts: `4` → nothing"
        ]
        .map(|line| line.replace("2c12fb61", &blake3::hash(b"prompts").to_hex()[..8]))
    );
    let template = |lock: &mut Lock| {
        let model = lock.models.get_mut("inst").unwrap();
        model.template = Some("other".to_string());
    };
    assert_eq!(
        changed(template),
        ["model `inst`, chat template: nothing → `other`"]
    );
    let weights = |lock: &mut Lock| {
        let file = &mut lock.models.get_mut("inst").unwrap().files;
        file.get_mut("model.safetensors").unwrap().bytes = 4;
    };
    let digits = &blake3::hash(b"abc").to_hex()[..8];
    assert_eq!(
        changed(weights),
        [format!(
            "model `inst`, file `model.safetensors`: `{digits} of 3 bytes` → `{digits} of 4 bytes`"
        )]
    );
}

#[test]
fn where_a_content_lies_is_no_difference() {
    let mut moved = lock();
    moved.prompts.get_mut("main").unwrap().path = "elsewhere.jsonl".to_string();
    moved.models.get_mut("inst").unwrap().source += "@main";
    assert!(lock().changes_to(&moved).is_empty());
}

#[test]
fn the_environment_is_told_apart_and_last() {
    let mut new = lock();
    new.environment.device = "cuda:0".to_string();
    new.evaluation = 2;
    let changes = lock().changes_to(&new);
    let concerns: Vec<Concern> = changes.iter().map(|change| change.concerns).collect();
    assert_eq!(concerns, [Concern::Study, Concern::Environment]);
    assert_eq!(changes[1].to_string(), "device: `cpu` → `cuda:0`");
}

#[test]
fn only_a_hub_source_without_a_revision_is_pinned() {
    let pins = lock().pins();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(
        pinned("hf:org/tiny", &pins),
        format!("hf:org/tiny@{commit}")
    );
    assert_eq!(pinned("hf:org/tiny@v1", &pins), "hf:org/tiny@v1");
    assert_eq!(pinned("hf:org/other", &pins), "hf:org/other");
}

#[test]
fn a_later_format_and_damage_are_errors() {
    let read = |text: &str| Lock::parse(Path::new("study.lock"), text).unwrap_err();
    let LockError::Unreadable(message) = read("format = 2\n") else {
        panic!("it was read")
    };
    assert!(
        message.starts_with("`study.lock` has format `2`"),
        "{message}"
    );
    let LockError::Damaged(diagnostics) = read("format = 1\nevaluation = \"x\"\n") else {
        panic!("it was read")
    };
    let text = diagnostics.render(false);
    assert!(text.contains("study.lock:2:14"), "{text}");
}

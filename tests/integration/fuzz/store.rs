//! What the program wrote itself and reads again: packs, records, runs; and what others published, to be compared with.

use std::sync::OnceLock;

use polars::prelude::{Column, DataFrame, ParquetWriter};
use refusal_dial::inside::cache::{Batch, Cache, Key};
use refusal_dial::inside::plan::{StageRecord, load_artifacts};
use refusal_dial::inside::report::{FinishedRun, Tolerances, diff, write};
use refusal_dial::inside::run::{run_summaries, usage, verify};
use serde_json::{Value as Json, json};

use super::target::{Case, Seed, Target};
use crate::workbench::files_below;

pub const TARGETS: &[Target] = &[
    Target {
        name: "pack",
        cases: 2000,
        made: pack_seeds,
        words: &["dialpack", "{\"device\":\"cpu\"}"],
        repair: repair_pack,
        read: read_pack,
        ..Target::TEXT
    },
    Target {
        name: "record",
        cases: 1500,
        made: record_seeds,
        words: &["../../x", "@OUTSIDE@", "\u{0}", "tables", "directions"],
        read: read_record,
        ..Target::JSON
    },
    Target {
        name: "manifest",
        cases: 120,
        made: manifest_seeds,
        words: &[
            "..",
            "../../x",
            "@OUTSIDE@",
            "/",
            "",
            "\u{0}",
            "</script><script>",
            "\u{1b}]0;x\u{7}",
            "\u{202e}",
            "score",
            "steer",
            "summary",
            "patch",
            "direction",
            "holdout",
            "xstest",
            "random",
            "generate",
            "complete",
            "running",
            "failed",
            "computed",
            "sweep",
            "random_sweep",
            "held_out_sweep",
            "texts",
        ],
        read: read_manifest,
        ..Target::JSON
    },
    Target {
        name: "parquet",
        cases: 1500,
        made: || vec![Seed::new("plain", scores())],
        words: &["PAR1"],
        read: |case| {
            case.write("run/tables/steer.parquet", &tables()[1].1);
            case.write("run/tables/score.parquet", case.input);
            case.write("run/run.json", manifest().to_string());
            let run = FinishedRun::read(&case.folder.join("run"));
            run.map_err(|error| error.to_string()).is_ok()
        },
        ..Target::TEXT
    },
    Target {
        name: "published",
        cases: 2000,
        made: published_seeds,
        words: &[
            "id", "alpha", "score", "layer", "seed", "label", "refused", "scores", "rows",
            "baseline", "nan", ",", "\n", "\"",
        ],
        read: |case| {
            let name = match case.input.first() {
                Some(b'{' | b'[') => "steer_layer2_seed0.json",
                _ => "steer_layer2_seed0.csv",
            };
            let (one, other) = (
                case.write(name, case.input),
                case.write("other/steer.csv", STEER),
            );
            let tolerances = Tolerances {
                score: 1e-3,
                rate: 0.0,
                cosine: 0.99,
            };
            let differences = [(&one, &other), (&other, &one)].map(|(left, right)| {
                let difference = diff(left, right, tolerances).map_err(|error| error.to_string());
                difference.map(|difference| format!("{difference:?}"))
            });
            differences.iter().all(Result::is_ok)
        },
        ..Target::JSON
    },
];

const STEER: &str = "model,id,split,category,layer,alpha,score,refused\ninst,a,harmful,x,2,0,1.5,true\ninst,a,harmful,x,2,4,-0.5,false\n";

fn batch() -> Batch {
    let mut batch = Batch::default();
    for (name, value) in [("a", &[1u8, 2, 3, 4][..]), ("b", &[5; 12]), ("c", &[])] {
        batch.push(Key::of(name.as_bytes()), value);
    }
    batch
}

/// The file of a pack, as a store writes it.
fn pack(batch: &Batch) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    cache
        .cells()
        .commit(batch, &json!({"device": "cpu"}))
        .unwrap();
    let files = files_below(&folder.path().join("v1/packs"));
    std::fs::read(&files[0]).unwrap()
}

fn pack_seeds() -> Vec<Seed> {
    let good = pack(&batch());
    let mut even = Batch::default();
    (0..20u8).for_each(|i| even.push(Key::of(&[i]), &[i; 4]));
    let with = |name: &str, at: usize, number: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        repair_pack(&mut bytes);
        Seed::new(name, bytes)
    };
    // The lengths of values stand behind the keys, after the provenance.
    let entries = 40 + u64::from_le_bytes(*good[16..].first_chunk().unwrap()) as usize;
    let twice = [&good[..], &good[..]].concat();
    vec![
        Seed::new("plain", good.clone()),
        Seed::new("even", pack(&even)),
        Seed::new("cut", &good[..good.len() - 1]),
        Seed::new("twice", twice),
        with("version-2", 8, 2),
        with("provenance-2-63", 16, 1 << 63),
        with("cells-2-62", 24, 1 << 62),
        with("cells-none", 24, 0),
        with("values-2-64", 32, u64::MAX),
        with("value-2-63", entries + 32, 1 << 63),
        with("values-that-overflow", entries + 72, u64::MAX - 3),
    ]
}

/// Makes the hash of the header right again, where there is one.
fn repair_pack(bytes: &mut [u8]) {
    let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let end = || {
        let entries = number(24)?.checked_mul(40)?;
        usize::try_from(number(16)?.checked_add(entries)?.checked_add(40)?).ok()
    };
    if let Some(end) = end()
        && let Some(header) = bytes.get(..end)
    {
        let hash = blake3::hash(header);
        if let Some(place) = bytes.get_mut(end..).and_then(|rest| rest.first_chunk_mut()) {
            *place = *hash.as_bytes();
        }
    }
}

/// Puts a file under its name into the case's cache.
fn put(case: &Case, kind: &str, key: &Key, suffix: &str, bytes: &[u8]) {
    let name = key.to_string();
    let shelf = &name[..2];
    case.write(&format!("cache/v1/{kind}/{shelf}/{name}{suffix}"), bytes);
}

/// The case's cache.
fn cache(case: &Case) -> Cache {
    case.write("cache/VERSION", "1\n");
    Cache::open(&case.folder.join("cache")).unwrap()
}

fn read_pack(case: &Case) -> bool {
    let key = Key::of(case.input);
    put(case, "packs", &key, ".pack", case.input);
    let cache = cache(case);
    let values = ["a", "b", "c", "absent"].map(|name| {
        let value = cache.cells().get(&Key::of(name.as_bytes()));
        value.map_err(|error| error.to_string())
    });
    look_through(case, &cache);
    matches!(&values[0], Ok(Some(_)))
}

/// What `dial cache` does.
fn look_through(case: &Case, cache: &Cache) {
    drop(usage(cache, &case.folder.join("runs")).map_err(|error| error.to_string()));
    match verify(cache, &mut |_, _| {}) {
        Ok(verified) => drop(format!("{:?}", verified.damaged)),
        Err(error) => drop(error.to_string()),
    }
}

fn record_seeds() -> Vec<Seed> {
    let key = |text: &str| Key::of(text.as_bytes()).to_string();
    let record = json!({
        "tables": [{"name": "", "rows": 2, "csv": key("csv"), "parquet": key("parquet")}],
        "directions": [[{"file": "d.safetensors", "key": key("tensors")}, {"file": "d.json", "key": key("description")}]],
        "findings": ["one"], "key_parts": {"model": "inst", "alpha": [0, 1.5]}, "seconds": 1.5, "cells": 3, "packs": [key("pack")],
        "weights": [key("weights")], "stage": "steer", "created": "2026-01-01T00:00:00Z",
    });
    let with = |name: &str, field: &str, value: Json| {
        let mut record = record.clone();
        record[field] = value;
        Seed::new(name, record.to_string())
    };
    vec![
        Seed::new("plain", record.to_string()),
        with(
            "rows-huge",
            "tables",
            json!([{"name": "../../../x", "rows": u64::MAX, "csv": key("csv"), "parquet": key("csv")}]),
        ),
        with("key-short", "packs", json!(["abc"])),
        with("key-of-other-characters", "packs", json!(["é".repeat(32)])),
        with("seconds-huge", "seconds", json!(1e308)),
        with("cells-negative", "cells", json!(-1)),
        with(
            "file-outside",
            "directions",
            json!([[{"file": "@OUTSIDE@", "key": key("csv")}, {"file": "../../../../x", "key": key("csv")}]]),
        ),
        Seed::new("deep", format!("{{\"key_parts\":{}", "[".repeat(100_000))),
        Seed::new(
            "key-twice",
            record.to_string().replacen('{', "{\"cells\":1,", 1),
        ),
    ]
}

fn read_record(case: &Case) -> bool {
    let key = Key::of(b"stage");
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(case.input);
    let checksum = hasher.finalize().to_hex();
    let head = format!("{{\"checksum\":\"{checksum}\",\"key\":\"{key}\",\"record\":");
    let text = [head.as_bytes(), case.input, b"}\n"].concat();
    put(case, "stages", &key, ".json", &text);
    // Objects that a record may name, which are no tables and no directions.
    for object in ["csv", "parquet", "tensors", "description"] {
        let object = object.as_bytes();
        put(case, "objects", &Key::of(object), "", object);
    }
    let cache = cache(case);
    drop(
        cache
            .stage_records::<StageRecord>()
            .map(|records| records.len()),
    );
    let record = cache.stage_record::<StageRecord>(&key);
    let record = record.map_err(|error| error.to_string());
    if let Ok(Some(record)) = &record {
        let artifacts = load_artifacts(record, &cache).map_err(|error| error.to_string());
        let _ = (record.content(), artifacts.is_ok());
    }
    look_through(case, &cache);
    matches!(record, Ok(Some(_)))
}

/// A table of scores as Parquet.
fn scores() -> Vec<u8> {
    let text = |name: &str, values: [&str; 4]| Column::new(name.into(), values);
    let columns = vec![
        text("model", ["inst", "inst", "base", "base"]),
        text("id", ["a", "b", "a", "b"]),
        text("split", ["harmful", "safe", "harmful", "safe"]),
        text("category", ["x", "", "x", ""]),
        Column::new("score".into(), [1.5, -0.5, 0.25, f64::MIN]),
        Column::new("refused".into(), [true, false, true, false]),
    ];
    parquet(columns)
}

/// A table of a sweep as Parquet.
fn steered() -> Vec<u8> {
    let columns = vec![
        Column::new("model".into(), ["inst"; 4]),
        Column::new("id".into(), ["a", "b", "a", "b"]),
        Column::new("split".into(), ["harmful", "safe", "harmful", "safe"]),
        Column::new("category".into(), ["x", "", "x", ""]),
        Column::new("layer".into(), [2i64, 2, 2, 2]),
        Column::new("alpha".into(), [0.0, 0.0, 4.0, 4.0]),
        Column::new("score".into(), [1.5, -0.5, -2.5, f64::MAX]),
        Column::new("refused".into(), [true, false, false, true]),
    ];
    parquet(columns)
}

fn parquet(columns: Vec<Column>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut frame = DataFrame::new(4, columns).unwrap();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    bytes
}

/// The tables of a run, made once.
fn tables() -> &'static [(&'static str, Vec<u8>); 2] {
    static TABLES: OnceLock<[(&str, Vec<u8>); 2]> = OnceLock::new();
    TABLES.get_or_init(|| [("score", scores()), ("steer", steered())])
}

/// The `run.json` of a run with these tables.
fn manifest() -> Json {
    let key = |text: &str| Key::of(text.as_bytes()).to_string();
    let stage = |name: &str| {
        json!({
            "name": name, "kind": name, "key": key(name), "status": "computed", "seconds": 1.5, "seconds_when_computed": 1.5,
            "cells_computed": 4, "cells_cached": 0, "inputs": {}, "findings": ["one finding"],
            "tables": [{"name": "", "rows": 4, "csv": key("csv"), "parquet": key(name)}],
        })
    };
    let node = |name: &str, product: &str, stages: Json| json!({ "name": name, "kind": name, "shown_as": name, "product": product, "prompts": ["main"], "stages": stages });
    json!({
        "format": 2, "graph": [
            node("score", "scores", json!([])),
            node("steer", "sweep", json!([{"field": "direction", "stage": "score"}])),
            node("summary", "summary", json!([{"field": "steer", "stage": "steer"}])),
        ],
        "study": "study", "run": "study/one", "question": "why?", "key": key("study"), "status": "complete",
        "started": "2026-01-01T00:00:00Z", "seconds": 3.5, "equivalent_forward_passes": 100, "command": ["run", "study.toml"],
        "directory": "somewhere", "cache": "nowhere", "planned": ["score", "steer"], "overrides": [], "findings": [],
        "files": {"study.toml": "somewhere/study.toml"}, "stages": [stage("score"), stage("steer")],
        "provenance": {"dial": "0.1.0", "threads": 1, "device": "cpu"},
        "models": {"inst": {"source": "models/inst", "dtype": "float32", "fingerprint": key("m"),
                            "config": {"architecture": "qwen2", "n_layers": 4, "d_model": 64}}},
        "prompts": {"main": {"path": "main.jsonl", "content": key("p"), "splits": {"harmful": 1, "safe": 1}}},
    })
}

fn manifest_seeds() -> Vec<Seed> {
    let with = |name: &str, change: &dyn Fn(&mut Json)| {
        let mut manifest = manifest();
        change(&mut manifest);
        Seed::new(name, manifest.to_string())
    };
    let stage_named = |seed: &str, name: &str| {
        with(seed, &|manifest| {
            for stage in [0, 1] {
                manifest["stages"][stage]["name"] = json!(name);
                manifest["graph"][stage]["name"] = json!(name);
            }
        })
    };
    let table_named = |seed: &str, name: &str| {
        with(seed, &|manifest| {
            manifest["stages"][0]["tables"][0]["name"] = json!(name);
        })
    };
    let text = manifest().to_string();
    vec![
        with("plain", &|_| {}),
        with("plain-of-0.1", &|manifest| {
            for name in ["format", "graph"] {
                manifest.as_object_mut().unwrap().remove(name);
            }
        }),
        with("format-later", &|manifest| manifest["format"] = json!(3)),
        with("format-huge", &|manifest| manifest["format"] = json!(1e300)),
        with("product-of-another-stage", &|manifest| {
            manifest["graph"][0]["product"] = json!("summary");
            manifest["graph"][1]["product"] = json!("sweep_by_type");
        }),
        with("edges-that-lead-nowhere", &|manifest| {
            manifest["graph"][0]["stages"] =
                json!([{"field": "steer", "stage": "score"}, {"stage": "gone"}, {}]);
        }),
        with("prompts-from-the-run-on", &|manifest| {
            manifest["prompts"]["main"]["path_from_run"] = json!("../../../../../../dev/zero");
        }),
        with("killed", &|manifest| manifest["status"] = json!("running")),
        // A table that exists, of another run: figures drawn under its name would lie there.
        stage_named("stage-of-another-run", "../../other/tables/score"),
        stage_named("stage-name-up", "../tables/score"),
        stage_named("stage-name-outside", "@OUTSIDE@"),
        stage_named("stage-name-absolute", "/score"),
        stage_named("stage-name-empty", ""),
        stage_named("stage-name-long", &"x".repeat(5000)),
        stage_named("stage-name-null", "a\u{0}b"),
        stage_named(
            "stage-name-markup",
            "<script>alert(1)</script>\u{1b}]0;x\u{7}\u{202e}",
        ),
        table_named("table-name-up", "../score"),
        table_named("table-name-outside", "/../../../../../x"),
        with("empty", &|manifest| *manifest = json!({})),
        with("a-list", &|manifest| *manifest = json!([1, 2])),
        with("stages-of-other-types", &|manifest| {
            manifest["stages"] = json!([1, "x", null, [], {}])
        }),
        with("counts-huge", &|manifest| {
            for stage in [0, 1] {
                manifest["stages"][stage]["cells_computed"] = json!(u64::MAX);
                manifest["stages"][stage]["cells_cached"] = json!(u64::MAX);
                manifest["stages"][stage]["tables"][0]["rows"] = json!(u64::MAX);
            }
            manifest["equivalent_forward_passes"] = json!(u64::MAX);
        }),
        with("seconds-huge", &|manifest| {
            manifest["seconds"] = json!(1e308);
            manifest["stages"][0]["seconds"] = json!(-1e308);
        }),
        with("cells-in-hand", &|manifest| {
            manifest["status"] = json!("running");
            manifest["cells_in_hand"] = json!([u64::MAX, 0]);
        }),
        with("started-is-no-time", &|manifest| {
            manifest["started"] = json!("99999-99-99T99:99:99Z\u{1b}[2J")
        }),
        with("files-outside", &|manifest| {
            manifest["status"] = json!("failed");
            manifest["files"] = json!({"@OUTSIDE@": "/dev/zero", "study.toml": "/dev/zero", "../../../x": "@OUTSIDE@"});
        }),
        with("prompts-are-a-device", &|manifest| {
            manifest["prompts"]["main"]["path"] = json!("/dev/zero")
        }),
        with("cache-outside", &|manifest| {
            manifest["status"] = json!("running");
            manifest["cache"] = json!("../../..");
        }),
        Seed::new("deep", "[".repeat(1 << 20)),
        Seed::new(
            "deep-in-a-stage",
            text.replacen(
                "\"inputs\":{}",
                &format!("\"inputs\":{}{}", "[".repeat(120), "]".repeat(120)),
                1,
            ),
        ),
        Seed::new("key-twice", text.replacen('{', "{\"stages\":[],", 1)),
        Seed::new("cut", &text.as_bytes()[..text.len() / 2]),
        Seed::new("not-utf8", b"{\"study\": \"\xff\"}".as_slice()),
    ]
}

fn read_manifest(case: &Case) -> bool {
    let folder = case.folder.join("runs/study/one");
    let other = case.folder.join("runs/study/other");
    for run in ["one", "other"] {
        for (name, bytes) in tables() {
            case.write(&format!("runs/study/{run}/tables/{name}.parquet"), bytes);
        }
    }
    case.write("runs/study/other/run.json", manifest().to_string());
    let before = files_below(&other);
    case.write("runs/study/one/run.json", case.input);
    drop(run_summaries(&case.folder.join("runs")).map_err(|error| error.to_string()));
    let tolerances = Tolerances {
        score: 1e-3,
        rate: 0.0,
        cosine: 0.99,
    };
    drop(diff(&folder, &other, tolerances).map_err(|error| error.to_string()));
    let written = write(&folder).map_err(|error| error.to_string());
    assert_eq!(
        files_below(&other),
        before,
        "the folder of another run was written to"
    );
    written.is_ok()
}

fn published_seeds() -> Vec<Seed> {
    let nested = json!({
        "layer": 2, "site": "hook_resid_pre", "holdout": {"seed": 1, "holdout_frac": 0.5, "counts": {"edge_train": 2, "edge_holdout": 1}},
        "direction": {"top_ids": ["a"], "bottom_ids": ["b"]},
        "results": [{"model": "inst", "alpha": -4.0, "mean": 1.5, "refusal_rate": 0.5, "n": 2}],
        "results_summary": {"inst": {"edge": {"-4.0": {"mean": 1.0, "std": 0.5, "refusal_rate": 0.5}}}},
    });
    let sweep = "run,model,eval_set,alpha,id,score,refuse_flag\nr,inst,harm,-10.0,h1,1.5,1\nr,inst,harm,-0.0,h1,-1.0,0\n";
    vec![
        Seed::new("plain", STEER),
        Seed::new("sweep", sweep),
        Seed::new(
            "side-by-side",
            "id,split,category,s_base,s_inst,s_gap\nh1,harmful,x,-1.5,2.0,3.5\n",
        ),
        Seed::new(
            "numbers",
            STEER.replace("1.5", "1e999").replace("-0.5", "nan"),
        ),
        Seed::new("nested", nested.to_string()),
        Seed::new("deep", "[".repeat(100_000)),
    ]
}

//! Models, prompts and devices that cannot be used, and studies whose data do not allow what they ask.

mod data;
mod models;
mod prompt_files;

use std::path::Path;

use insta::assert_snapshot;
use serde_json::json;

use crate::checkpoint::{D_MODEL, config, copied, planted_models};
use crate::prompts::{Prompt, main_set, sentence};
use crate::workbench::{Run, Said, Workbench};

const STUDY: &str = r#"[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 4
layer = [2]
"#;

fn bench() -> Workbench {
    Workbench::new(&main_set(12, 8))
}

mod places {
    use super::*;

    #[test]
    fn cuda_without_a_gpu() {
        if std::process::Command::new("nvidia-smi").output().is_ok() {
            eprintln!("skipped: this machine has a GPU");
            return;
        }
        let bench = bench();
        bench.write("study.toml", STUDY);
        let said = bench.dial(&["run", "study.toml", "--device", "cuda:0"]);
        let message = said.last_line(1);
        assert!(
            message.starts_with(
                "error: stage `score`: no CUDA: `libtorch_cuda.so` could not be loaded"
            ),
            "{message}"
        );
        assert!(
            message.contains("LD_LIBRARY_PATH") && message.ends_with("or use `--device cpu`"),
            "{message}"
        );
    }

    #[test]
    fn a_cache_of_another_version_and_one_that_is_a_file() {
        let bench = bench();
        bench.write("cache/VERSION", "2\n");
        assert_snapshot!(bench.refusal(STUDY).message(1), @"error: `cache/VERSION` says version `2`, expected `1`: it was written by a newer `dial`; use that one, or choose another folder with `--cache`");
        bench.write("file", "");
        let said = bench.dial(&["run", "study.toml", "--cache", "file"]);
        assert_snapshot!(said.message(1), @"error: cannot read `file/VERSION`: a file stands where a folder is needed; choose another folder (`--cache`, `--runs`)");
    }

    #[test]
    fn runs_that_cannot_be_written() {
        let bench = bench();
        bench.write("study.toml", STUDY);
        bench.write("file", "");
        let said = bench.dial(&["run", "study.toml", "--runs", "file"]);
        assert_snapshot!(said.message(1), @"error: cannot create the folder `file/study`: a file stands where a folder is needed; choose another folder (`--cache`, `--runs`)");
    }
}

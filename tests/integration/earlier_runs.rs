//! A run of dial 0.1, whose manifest has the first format.
use crate::prompts::main_set;
use crate::workbench::{Workbench, copy_folder};

#[test]
fn dump() {
    let bench = Workbench::new(&main_set(8, 5));
    copy_folder(
        crate::checkpoint::planted_models(),
        std::path::Path::new("/tmp/bench01/models"),
    );
    for f in ["main.jsonl", "xstest.csv"] {
        std::fs::copy(bench.path(f), format!("/tmp/bench01/{f}")).unwrap();
    }
}

//! What a folder or file is that holds no weights that can be read here, and what to do about it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::error::{ModelError, unsupported};

/// How weights become safetensors.
const CONVERT: &str = "`AutoModelForCausalLM.from_pretrained(<folder>).save_pretrained(<new folder>)` in Python writes safetensors";

/// What the content of a weight file shows where it is no weight file at all.
pub(super) fn not_weights(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.get(..512).unwrap_or(bytes).trim_ascii_start();
    let begins = |text: &str| {
        let start = start.get(..text.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
    };
    if begins("version https://git-lfs") {
        return Some("it is a pointer of Git LFS in its place; `git lfs pull` fetches it");
    }
    if begins("<!doctype") || begins("<html") || begins("<?xml") {
        return Some("it is a web page");
    }
    if begins("PK\u{3}\u{4}") || start.starts_with(&[0x80, 2]) {
        return Some("it is a pickle of PyTorch");
    }
    if begins("GGUF") {
        return Some("it is a GGUF file");
    }
    bytes.is_empty().then_some("it is empty")
}

/// The names of what lies in a folder; none where it cannot be read.
fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The error for a folder without `config.json`: what it is instead, or that it has none.
pub(super) fn without_config(folder: &Path) -> ModelError {
    let names = names_in(folder);
    let expected = "expected `config.json`, `tokenizer.json` and safetensors weights, or the name of a `.gguf` file";
    let problem = instead_of_weights(&names).unwrap_or_else(|| match names.is_empty() {
        true => format!("the folder is empty; {expected}"),
        false => format!("there is no `config.json`; {expected}"),
    });
    ModelError::invalid(folder, problem)
}

/// The error for a folder that has a `config.json` and no weights that are read here.
pub(super) fn without_weights(folder: &Path) -> ModelError {
    let problem = instead_of_weights(&names_in(folder)).unwrap_or_else(|| {
        "no weights: expected `model.safetensors` or `model.safetensors.index.json`".to_string()
    });
    ModelError::invalid(folder, problem)
}

/// A finding about an adapter that lies beside a whole model.
pub(super) fn adapter_beside(folder: &Path) -> Option<String> {
    folder.join("adapter_config.json").exists().then(|| {
        "holds an adapter too (`adapter_config.json`), which is not applied; merge it into the model if it is meant"
            .to_string()
    })
}

/// What files of these names are instead of safetensors weights, and what to do. A fragment.
pub(super) fn instead_of_weights(names: &BTreeSet<String>) -> Option<String> {
    let first = |is: &dyn Fn(&str) -> bool| names.iter().find(|name| is(name));
    if let Some(name) = first(&|name| name.starts_with("adapter_")) {
        return Some(format!(
            "an adapter (`{name}`), not a model: merge it into the model it was trained on, with `merge_and_unload()` of PEFT and \
             `save_pretrained`, and name that folder"
        ));
    }
    if let Some(name) = first(&|name| name.starts_with("consolidated.")) {
        return Some(format!(
            "weights in the format of the model's first release (`{name}`); take the model in the format of Hugging Face transformers \
             (`config.json`, `model.safetensors`), or a GGUF file"
        ));
    }
    if let Some(name) = first(&|name| is_gguf(Path::new(name))) {
        return Some(format!(
            "a folder of GGUF files, expected the name of one of them, such as `{name}`"
        ));
    }
    if let Some(name) = first(&is_pickle) {
        return Some(format!(
            "pickled weights (`{name}`), which are never read, because that would run what is in them: {CONVERT}"
        ));
    }
    let others = [".h5", ".msgpack", ".onnx", ".tflite", ".npz"];
    if let Some(name) = first(&|name| others.iter().any(|end| name.ends_with(end))) {
        return Some(format!("weights of another library (`{name}`); {CONVERT}"));
    }
    let name = first(&|name| name.ends_with(".safetensors"))?;
    Some(format!(
        "no `model.safetensors` and no `model.safetensors.index.json`, but `{name}`: fetch what is missing, or rename a single file of \
         weights to `model.safetensors`"
    ))
}

pub(super) fn is_gguf(path: &Path) -> bool {
    let end = path.extension();
    end.is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".bin.index.json", ".pt", ".pth", ".pkl", ".ckpt"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The error for a file that is no `.gguf` file.
pub(super) fn not_gguf(path: &Path) -> ModelError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if is_pickle(&name) {
        let problem = format!(
            "pickled weights, which are never read, because that would run what is in them: {CONVERT}"
        );
        return ModelError::invalid(path, problem);
    }
    if name.ends_with(".safetensors") {
        let problem = "weights alone, expected the folder that they lie in, with `config.json` and `tokenizer.json`";
        return ModelError::invalid(path, problem);
    }
    if name.to_ascii_lowercase().contains(".gguf") {
        let problem = "a part of a GGUF file, expected the whole one, with a name that ends in `.gguf`; join the parts with `cat`";
        return ModelError::invalid(path, problem);
    }
    let supported = "a Hugging Face folder, a `.gguf` file";
    ModelError::invalid(path, unsupported("a model file of this kind", supported))
}

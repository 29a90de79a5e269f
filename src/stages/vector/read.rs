//! Files of directions that other programs write, read as what is in them: which vectors, from where, for which model.
//!
//! | file | known by | a vector |
//! |---|---|---|
//! | safetensors | its header | a tensor of one axis, or a row of one of two, whose number is the layer |
//! | GGUF of llama.cpp | `GGUF` | `direction.N`, of the output of block N |
//! | JSON of CAST (`.svec`) | `{` | of a layer `l`, read from its output (`hidden_states[l+1]`) |
//!
//! What a pickle holds is a program, which runs when it is opened: none is.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::harmless;
use crate::json;
use crate::model::{ControlVector, Site};

/// Characters of a file's own words that are kept.
const QUOTED: usize = 80;
/// Tensors that a message lists.
const LISTED: usize = 10;

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read {
    pub(super) made_for: MadeFor,
    pub(super) vectors: Vectors,
}

/// What a file says of the model that it was made for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MadeFor {
    /// As `model_type` in `config.json`.
    pub(super) architecture: Option<String>,
    /// A name, which says nothing that could be checked.
    pub(super) name: Option<String>,
    /// Fingerprint of a model of this program.
    pub(super) fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Vectors {
    /// One, and where it is, where the file says it.
    One {
        vector: Vector,
        layer: Option<usize>,
        site: Option<Site>,
    },
    /// A row for each layer.
    Rows {
        rows: Vec<Vector>,
        site: Option<Site>,
    },
    /// By the number of the block at whose output they were read.
    Outputs {
        by_block: Vec<(usize, Vector)>,
        by: Writer,
    },
}

/// What wrote vectors of outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Writer {
    LlamaCpp,
    Cast,
}

/// A vector as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vector {
    /// Name of the tensor, or key.
    pub(super) tensor: String,
    pub(super) values: Vec<f64>,
    /// The length that it had before it was made 1, where the file says it.
    pub(super) was: Option<f64>,
    /// The share of the variance that it explains, where the file says it.
    pub(super) explained: Option<f64>,
}

/// Reads a file of these bytes; of several tensors the one named.
///
/// # Errors
/// What is wrong with it, as a fragment that follows its name.
pub(super) fn read(bytes: &[u8], tensor: Option<&str>) -> Result<Read, String> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match (pickled(bytes), first) {
        (Some(what), _) => Err(format!(
            "is {what}, which may hold a program that runs when it is opened, and is not opened; write its vectors as `.safetensors` with the \
             program that made it"
        )),
        (None, _) if bytes.starts_with(b"GGUF") => one_file(control_vector(bytes)?, tensor),
        (None, Some(b'{')) => one_file(cast(bytes)?, tensor),
        (None, _) => stored(bytes, tensor),
    }
}

/// The container of pickles that bytes begin with.
fn pickled(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'P', b'K', 3, 4, ..] => Some("a ZIP archive, as PyTorch's `.pt` and `.bin`"),
        [0x80, 2..=5, ..] => Some("a pickle"),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some("NumPy's `.npy`"),
        _ => None,
    }
}

/// What holds all of its vectors together.
fn one_file(read: Read, tensor: Option<&str>) -> Result<Read, String> {
    match tensor {
        None => Ok(read),
        Some(_) => Err(
            "names its vectors by layer; take `tensor` out, and name layers with `layer`"
                .to_string(),
        ),
    }
}

fn control_vector(bytes: &[u8]) -> Result<Read, String> {
    let read =
        ControlVector::read(bytes).map_err(|problem| format!("cannot be used: {problem}"))?;
    let said = |key: &str| read.about.get(key).map(|said| quoted(said));
    let was = said("pre_norm").and_then(|length| length.parse().ok());
    let vector = |(block, values): (usize, Vec<f32>)| {
        let vector = Vector {
            tensor: format!("direction.{block}"),
            values: values.into_iter().map(f64::from).collect(),
            was,
            explained: None,
        };
        (block, vector)
    };
    Ok(Read {
        made_for: MadeFor {
            architecture: read.hint.as_deref().map(quoted),
            name: said("model"),
            fingerprint: said("model_fingerprint"),
        },
        vectors: Vectors::Outputs {
            by_block: read.directions.into_iter().map(vector).collect(),
            by: Writer::LlamaCpp,
        },
    })
}

/// CAST's own form of a vector.
#[derive(Deserialize)]
struct Svec {
    model_type: Option<String>,
    /// By the number of the layer at whose output it was read.
    directions: BTreeMap<String, Vec<f64>>,
    /// Likewise.
    #[serde(default)]
    explained_variances: BTreeMap<String, Option<f64>>,
}

fn cast(bytes: &[u8]) -> Result<Read, String> {
    let wrong = |problem: String| {
        format!(
            "cannot be used: {problem}; expected CAST's `model_type` and `directions`, a list of numbers for each layer"
        )
    };
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_string()))?;
    let read: Svec = json::read(text).map_err(wrong)?;
    let block_of = |key: &str| {
        let block = key.parse::<usize>();
        block.map_err(|_| wrong(format!("`{}` is no layer", quoted(key))))
    };
    let mut explained = BTreeMap::new();
    for (key, share) in &read.explained_variances {
        explained.insert(block_of(key)?, *share);
    }
    let mut by_block = Vec::new();
    for (key, values) in read.directions {
        let block = block_of(&key)?;
        let vector = Vector {
            tensor: key,
            values,
            was: None,
            explained: explained.get(&block).copied().flatten(),
        };
        by_block.push((block, vector));
    }
    by_block.sort_by_key(|(block, _)| *block);
    let twice = by_block.windows(2).find(|two| two[0].0 == two[1].0);
    match (by_block.first(), twice) {
        (None, _) => Err(wrong("it has no directions".to_string())),
        (_, Some(two)) => Err(wrong(format!("layer {} is there twice", two[0].0))),
        _ => Ok(Read {
            made_for: MadeFor {
                architecture: read.model_type.as_deref().map(quoted),
                ..MadeFor::default()
            },
            vectors: Vectors::Outputs {
                by_block,
                by: Writer::Cast,
            },
        }),
    }
}

/// The tensor that is this program's own direction, and that of the length which it had.
const OWN: [&str; 2] = ["direction", "pre_norm"];

fn stored(bytes: &[u8], wanted: Option<&str>) -> Result<Read, String> {
    let wrong = |problem: String| {
        format!(
            "is neither safetensors ({problem}), nor a control vector of llama.cpp (GGUF), nor CAST's JSON"
        )
    };
    let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.to_string()))?;
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|error| wrong(error.to_string()))?;
    let said = header.metadata().clone().unwrap_or_default();
    let text = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| said.get(*key));
        found.map(|text| quoted(text))
    };
    let name = chosen(&file, wanted)?;
    let view = file
        .tensor(&name)
        .map_err(|error| wrong(error.to_string()))?;
    let numbers = numbers(&view)
        .map_err(|problem| format!("cannot be used: tensor `{}` {problem}", quoted(&name)))?;
    let site = match text(&["site"]) {
        None => None,
        Some(name) => Some(
            Site::from_name(&name)
                .filter(|site| Site::RESIDUAL.contains(site))
                .ok_or_else(|| {
                    format!("cannot be used: its metadata has the site `{name}`, which is none")
                })?,
        ),
    };
    let layer = match text(&["layer"]) {
        None => None,
        Some(layer) => Some(layer.parse().map_err(|_| {
            format!("cannot be used: its metadata has the layer `{layer}`, expected a number")
        })?),
    };
    let vector = |values: &[f64], row: Option<usize>, was: Option<f64>| Vector {
        tensor: match row {
            None => quoted(&name),
            Some(row) => format!("{}[{row}]", quoted(&name)),
        },
        values: values.to_vec(),
        was,
        explained: None,
    };
    let vectors = match view.shape() {
        [_] | [1, _] => Vectors::One {
            vector: vector(&numbers, None, length_before(&file, &name)),
            layer,
            site,
        },
        [_, width] if *width > 0 => {
            let rows = numbers.chunks(*width).enumerate();
            Vectors::Rows {
                rows: rows
                    .map(|(row, values)| vector(values, Some(row), None))
                    .collect(),
                site,
            }
        }
        shape => {
            return Err(format!(
                "cannot be used: tensor `{}` has shape `{shape:?}`, expected `[d_model]`, or `[layers, d_model]`",
                quoted(&name)
            ));
        }
    };
    Ok(Read {
        made_for: MadeFor {
            architecture: text(&["model_type", "model_hint"]),
            name: text(&["model"]),
            fingerprint: text(&["model_fingerprint", "fingerprint"]),
        },
        vectors,
    })
}

/// The tensor meant: that of the name, this program's own, or the only one there is.
fn chosen(file: &SafeTensors<'_>, wanted: Option<&str>) -> Result<String, String> {
    let mut names = file.names();
    names.sort_unstable();
    let has = |name: &str| names.contains(&name);
    let listed = || {
        let first = names
            .iter()
            .take(LISTED)
            .map(|name| format!("`{}`", quoted(name)));
        let listed = first.collect::<Vec<_>>().join(", ");
        match names.len().saturating_sub(LISTED) {
            0 => listed,
            more => format!("{listed} and {more} more"),
        }
    };
    match (wanted, names.as_slice()) {
        (_, []) => Err("cannot be used: it has no tensors".to_string()),
        (Some(name), _) if has(name) => Ok(name.to_string()),
        (Some(name), _) => Err(format!("has no tensor `{name}`; it has {}", listed())),
        (None, [only]) => Ok((*only).to_string()),
        (None, _) if has(OWN[0]) => Ok(OWN[0].to_string()),
        (None, _) => Err(format!(
            "has {} tensors; name one with `tensor`: {}",
            names.len(),
            listed()
        )),
    }
}

/// The length that this program's own direction had before it was made 1.
fn length_before(file: &SafeTensors<'_>, name: &str) -> Option<f64> {
    let view = file.tensor(OWN[1]).ok().filter(|_| name == OWN[0])?;
    match numbers(&view).ok()?.as_slice() {
        [length] => Some(*length),
        _ => None,
    }
}

/// The numbers of a tensor. The error is a fragment.
fn numbers(view: &TensorView<'_>) -> Result<Vec<f64>, String> {
    fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|b| read(*b)).collect()
    }
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::F64 => each(bytes, f64::from_le_bytes),
        Dtype::F32 => each(bytes, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        other => {
            return Err(format!(
                "is of type `{other:?}`, expected `F64`, `F32`, `F16` or `BF16`"
            ));
        }
    })
}

/// A file's own words, as they may be shown.
fn quoted(text: &str) -> String {
    harmless::cut(&harmless::line(text), QUOTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, &[usize], &[f32])], metadata: &[(&str, &str)]) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(.., numbers)| numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (
                *name,
                TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap(),
            )
        });
        let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        safetensors::serialize(views, Some(metadata.collect())).unwrap()
    }

    #[test]
    fn a_tensor_is_one_vector_or_a_row_for_each_layer() {
        let one = file(
            &[("v", &[2], &[3.0, 4.0])],
            &[
                ("layer", "3"),
                ("site", "resid_mid"),
                ("model_type", "llama"),
            ],
        );
        let read_one = read(&one, None).unwrap();
        let Vectors::One {
            vector,
            layer,
            site,
        } = read_one.vectors
        else {
            panic!("not one");
        };
        assert_eq!(
            (vector.values, layer, site),
            (vec![3.0, 4.0], Some(3), Some(Site::ResidMid))
        );
        assert_eq!(read_one.made_for.architecture.as_deref(), Some("llama"));
        let rows = file(&[("v", &[2, 2], &[1.0, 2.0, 3.0, 4.0])], &[]);
        let Vectors::Rows { rows, .. } = read(&rows, None).unwrap().vectors else {
            panic!("no rows");
        };
        assert_eq!(
            (rows[1].tensor.as_str(), &rows[1].values),
            ("v[1]", &vec![3.0, 4.0])
        );
    }

    #[test]
    fn of_several_tensors_one_is_named_unless_the_file_is_our_own() {
        let own = file(
            &[("direction", &[2], &[0.6, 0.8]), ("pre_norm", &[1], &[5.0])],
            &[],
        );
        let Vectors::One { vector, .. } = read(&own, None).unwrap().vectors else {
            panic!("not one");
        };
        assert_eq!(vector.was, Some(5.0));
        let two = file(&[("a", &[1], &[1.0]), ("b", &[1], &[2.0])], &[]);
        assert!(
            read(&two, None)
                .unwrap_err()
                .contains("name one with `tensor`: `a`, `b`")
        );
        assert!(
            read(&two, Some("c"))
                .unwrap_err()
                .contains("has no tensor `c`")
        );
        assert!(read(&two, Some("b")).is_ok());
        let deep = file(&[("a", &[1, 1, 1], &[1.0])], &[]);
        assert!(read(&deep, None).unwrap_err().contains("[1, 1, 1]"));
    }

    #[test]
    fn cast_names_layers_and_says_the_architecture() {
        let text = r#"{"model_type": "llama", "directions": {"10": [1.0, 2], "2": [0.5, 0]}, "explained_variances": {"10": 0.3, "2": 0.1}}"#;
        let found = read(text.as_bytes(), None).unwrap();
        let Vectors::Outputs { by_block, by } = found.vectors else {
            panic!("no outputs");
        };
        let blocks: Vec<usize> = by_block.iter().map(|(block, _)| *block).collect();
        assert_eq!((blocks, by), (vec![2, 10], Writer::Cast));
        let explained: Vec<Option<f64>> = by_block.iter().map(|(_, v)| v.explained).collect();
        assert_eq!(explained, [Some(0.1), Some(0.3)]);
        for (text, told) in [
            (r#"{"directions": {"a": [1]}}"#, "`a` is no layer"),
            (r#"{"directions": {"1": [1], "01": [1]}}"#, "twice"),
            (r#"{"directions": {"1": [1], "1": [2]}}"#, "twice"),
            (r#"{"directions": {}}"#, "no directions"),
            (r#"{"directions": {"1": [NaN]}}"#, "not as expected"),
            (
                r#"{"directions": {"1": [1]}, "explained_variances": {"b": 1}}"#,
                "`b` is no layer",
            ),
        ] {
            let problem = read(text.as_bytes(), None).unwrap_err();
            assert!(problem.contains(told), "{problem}");
        }
    }

    #[test]
    fn a_pickle_is_never_opened() {
        for bytes in [&b"PK\x03\x04rest"[..], b"\x80\x02rest", b"\x93NUMPY\x01"] {
            let problem = read(bytes, None).unwrap_err();
            assert!(problem.contains("is not opened"), "{problem}");
        }
        assert!(read(b"", None).is_err());
        assert!(
            read(b"direction", None)
                .unwrap_err()
                .contains("neither safetensors")
        );
    }

    #[test]
    fn a_file_that_ends_early_is_told_wherever_it_ends() {
        let whole = file(&[("v", &[2], &[3.0, 4.0])], &[]);
        for end in 0..whole.len() {
            assert!(read(&whole[..end], None).is_err(), "{end}");
        }
    }
}

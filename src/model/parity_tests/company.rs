//! The bits of the real model's cells, alone and together.

use super::*;
use crate::model::config::Sizes;

/// What the cache relies on, at the real model's sizes, where libtorch may take other paths than at those of tiny models.
#[test]
fn real_bits_do_not_depend_on_the_company() {
    let Some(mut real) = real() else { return };
    let chat = Chat::default().but_system(Some(SYSTEM));
    let texts = (0..20).map(|i| format!("What is {i} plus {}?", "nine ".repeat(i % 7)));
    let tokens: Vec<Arc<Tokens>> = texts
        .map(|text| real.handle.tokens(&text, &chat).unwrap())
        .collect();
    assert!(tokens.iter().all(|tokens| tokens.template().len() == 14));
    let vector = direction();
    let mut cells = Vec::new();
    for layer in [LAYER, 29] {
        for (number, tokens) in tokens.iter().enumerate() {
            for alpha in [0.0, 3.0, -8.0 + number as f64] {
                let add = Edit::Add {
                    vector: Arc::clone(&vector),
                    scale: alpha,
                };
                let hook = HookPoint::block(layer, Site::ResidPre);
                let at_last = Positions::At(tokens.len() - 1);
                let edits = vec![edit(hook, at_last, add)];
                cells.push(real.subject.cell(tokens, edits, real.score.clone()));
            }
        }
    }
    let together = real.subject.scores(&cells);
    let (_, mut fresh) = Subject::open(&at(MODEL), Dtype::Float32, 2 << 30);
    for i in [119, 7, 64, 30] {
        let alone = fresh.scores(&cells[i..=i])[0];
        assert_eq!(alone.to_bits(), together[i].to_bits(), "cell {i}");
    }
    let backwards: Vec<Cell> = cells.iter().rev().cloned().collect();
    let mut again = fresh.scores(&backwards);
    again.reverse();
    assert_eq!(again, together);
}

/// The cells of a sweep over prompts of many lengths, with scores and with text.
fn crowd(subject: &Subject, ids: &[u32], sizes: &Sizes, vector: &Arc<Vector>) -> Vec<Cell> {
    let mut cells = Vec::new();
    let new_tokens = 5;
    for length in 3..=ids.len().min(sizes.context_length - new_tokens) {
        let tokens = Arc::new(Tokens::new(ids[..length].to_vec()));
        for scale in [0.0, -3.0, length as f64] {
            let vector = Arc::clone(vector);
            let add = Edit::Add { vector, scale };
            let from_last = Positions::From(length - 1);
            let hook = HookPoint::block(1, Site::ResidPre);
            let edits = vec![edit(hook, from_last, add)];
            let readout = match length.is_multiple_of(4) {
                false => all_logits(sizes.d_vocab),
                true => Readout::Generation {
                    max_new_tokens: new_tokens,
                    sampling: Sampling::Greedy,
                    stop_at_end: false,
                    further_ends: Arc::default(),
                },
            };
            cells.push(subject.cell(&tokens, edits, readout));
        }
    }
    cells
}

/// The same of a tiny model of `tests/families`.
pub(super) fn assert_alone_as_together(folder: &Path) {
    let open = || Subject::open(folder, Dtype::Float32, 1 << 20);
    let (handle, mut subject) = open();
    let described = json(&folder.join("reference.json"));
    let prompts = described["prompts"].as_array().unwrap();
    let ids = ids(&prompts.last().unwrap()["ids"]);
    let reference = tensors(&folder.join("reference.safetensors"));
    let vector = Arc::new(Vector::new(reference["vector"].clone()));
    let cells = crowd(&subject, &ids, handle.config(), &vector);
    let bits =
        |values: Vec<Value>| -> Vec<Vec<u8>> { values.iter().map(Value::to_bytes).collect() };
    let together = bits(subject.values(&cells));
    let (_, mut fresh) = open();
    for (i, cell) in cells.iter().enumerate().rev() {
        let alone = bits(fresh.values(std::slice::from_ref(cell)));
        assert_eq!(alone[0], together[i], "cell {i} of {}", folder.display());
    }
}

//! Continuations against recomputation from scratch: every token from one whole forward pass over all tokens before it.

use super::*;

pub(super) const LENGTH: usize = 7;

/// Greedy tokens by the slow truth; edits act at the positions they name, at every step anew.
pub(super) fn naive_greedy(
    subject: &Subject,
    ids: &[u32],
    edits: &[Intervention],
    count: usize,
) -> Vec<u32> {
    let mut ids = ids.to_vec();
    let start = ids.len();
    for _ in 0..count {
        let (logits, _) = naive(subject, &ids, edits);
        let highest = logits.last().unwrap().iter().enumerate();
        let next = highest.max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        ids.push(next as u32);
    }
    ids.split_off(start)
}

pub(super) fn generation(sampling: Sampling, stop_at_end: bool) -> Readout {
    Readout::Generation {
        max_new_tokens: LENGTH,
        sampling,
        stop_at_end,
        further_ends: Arc::default(),
    }
}

pub(super) fn continuations(subject: &mut Subject, cells: &[Cell]) -> Vec<Vec<u32>> {
    let ids = |value| match value {
        Value::Generation(ids) => ids,
        other => panic!("{other:?} is no continuation"),
    };
    subject.values(cells).into_iter().map(ids).collect()
}

/// Prompts with up to two edits, which may start in the prompt, at its end, or among the generated tokens.
fn edited_prompts(
    draws: &mut Draws,
    n_layers: usize,
    count: usize,
) -> Vec<(Arc<Tokens>, Vec<Intervention>)> {
    let one = |_| {
        let length = 1 + draws.below(CONTEXT - LENGTH);
        let edits = (0..draws.below(3))
            .map(|_| draws.edit(n_layers, length - 1, length + LENGTH))
            .collect();
        (draws.prompt(length), edits)
    };
    (0..count).map(one).collect()
}

#[test]
fn greedy_text_is_that_of_recomputation() {
    let result = runner(16).run(&specs(), |spec| {
        let mut subject = spec.load(Dtype::Float32, 1 << 30);
        let mut draws = Draws::new(spec.seed);
        let prompts = edited_prompts(&mut draws, spec.n_layers, 10);
        let cells: Vec<Cell> = prompts
            .iter()
            .map(|(tokens, edits)| {
                subject.cell(tokens, edits.clone(), generation(Sampling::Greedy, false))
            })
            .collect();
        for ((tokens, edits), found) in prompts.iter().zip(continuations(&mut subject, &cells)) {
            let expected = naive_greedy(&subject, tokens.ids(), edits, LENGTH);
            prop_assert_eq!(found, expected, "{:?}", edits);
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_row_ends_at_its_own_end_of_text() {
    const END: [u32; 4] = [3, 9, 27, 31];
    let spec = Spec {
        family: "llama",
        n_layers: 2,
        heads: (1, 3),
        tied: true,
        biases: false,
        rope: 2,
        seed: 3,
    };
    let mut subject = spec.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(2);
    let sampling = Sampling::Seeded {
        temperature: 3.0,
        seed: 1,
    };
    let prompts: Vec<Arc<Tokens>> = (0..40).map(|_| draws.prompt(12)).collect();
    let mut run = |stop_at_end| {
        let cell = |tokens| subject.cell(tokens, vec![], generation(sampling, stop_at_end));
        let cells: Vec<Cell> = prompts.iter().map(cell).collect();
        continuations(&mut subject, &cells)
    };
    let (stopped, whole) = (run(true), run(false));
    let mut lengths = std::collections::BTreeSet::new();
    for (stopped, whole) in stopped.iter().zip(&whole) {
        let end = whole.iter().position(|id| END.contains(id));
        assert_eq!(stopped[..], whole[..end.map_or(LENGTH, |at| at + 1)]);
        lengths.insert(stopped.len());
    }
    assert!(lengths.len() > 3, "rows of different lengths: {lengths:?}");
    // A token that is no end of the model's own ends those rows that are told so, and no others of the same tile.
    let further = whole[0][1];
    assert!(!END.contains(&further));
    let ending = |ids: &[u32]| Readout::Generation {
        max_new_tokens: LENGTH,
        sampling,
        stop_at_end: true,
        further_ends: ids.into(),
    };
    let cells: Vec<Cell> = prompts
        .iter()
        .enumerate()
        .map(|(row, tokens)| {
            let ids = [further];
            let readout = ending(&ids[..1 - row % 2]);
            subject.cell(tokens, vec![], readout)
        })
        .collect();
    for (row, found) in continuations(&mut subject, &cells).iter().enumerate() {
        let is_end = |id: &u32| END.contains(id) || row % 2 == 0 && *id == further;
        let end = whole[row].iter().position(is_end);
        assert_eq!(found[..], whole[row][..end.map_or(LENGTH, |at| at + 1)]);
    }
}

#[test]
fn samples_depend_on_seed_and_prompt_alone() {
    let spec = Spec {
        family: "qwen2",
        n_layers: 2,
        heads: (2, 1),
        tied: false,
        biases: true,
        rope: 0,
        seed: 6,
    };
    let mut subject = spec.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(3);
    let prompts: Vec<Arc<Tokens>> = (0..30).map(|_| draws.prompt(10)).collect();
    let cells = |subject: &Subject, seed| -> Vec<Cell> {
        let sampling = Sampling::Seeded {
            temperature: 2.0,
            seed,
        };
        let cell = |tokens| subject.cell(tokens, vec![], generation(sampling, false));
        prompts.iter().map(cell).collect()
    };
    let (first, second) = (cells(&subject, 0), cells(&subject, 1));
    let together = continuations(&mut subject, &[first.clone(), second].concat());
    assert!((0..30).filter(|&i| together[i] != together[30 + i]).count() > 25);
    let distinct: std::collections::HashSet<&Vec<u32>> = together[..30].iter().collect();
    assert!(distinct.len() > 25, "prompts share draws");
    for (cell, expected) in first.iter().zip(&together).rev() {
        let mut alone = spec.load(Dtype::Float32, 1 << 30);
        let found = continuations(&mut alone, std::slice::from_ref(cell));
        assert_eq!(&found[0], expected);
    }
}

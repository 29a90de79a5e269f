//! Texts that are turned otherwise from their first position on where they are long: on both sides of the border in one batch, and over it while
//! they are continued.

use super::generation::{LENGTH, continuations, generation, naive_greedy};
use super::*;
use crate::model::generate::Row;

const SPEC: Spec = Spec {
    family: "phi3",
    n_layers: 3,
    heads: (2, 2),
    tied: true,
    biases: false,
    rope: 0,
    seed: 21,
};
const SAMPLED: Sampling = Sampling::Seeded {
    temperature: 1.5,
    seed: 8,
};

/// Prompts of every length around the border, with a template that all share and without one.
fn prompts(draws: &mut Draws) -> Vec<Arc<Tokens>> {
    let mut prompts = Vec::new();
    for length in BORDER - LENGTH - 2..=BORDER + 3 {
        for template in [0, 5, 33] {
            let template = template.min(length - 1);
            let ids = (0..length).map(|at| match at < template {
                true => (7 * at + 3) % VOCAB,
                false => draws.below(VOCAB),
            });
            let ids = ids.map(|id| id as u32).collect();
            prompts.push(Arc::new(Tokens::with_template(ids, template)));
        }
    }
    prompts
}

/// With an edit at one of the last tokens of the prompt or of the first that are generated, or without one.
fn edited(draws: &mut Draws, prompts: &[Arc<Tokens>]) -> Vec<Vec<Intervention>> {
    let edits = prompts.iter().map(|prompt| {
        let length = prompt.len();
        let count = draws.below(3);
        let edits = (0..count).map(|_| draws.edit(SPEC.n_layers, length - 1, length + LENGTH));
        edits.collect()
    });
    edits.collect()
}

/// Sampled tokens by the slow truth, with the row's own draws.
fn naive_sampled(subject: &Subject, cell: &Cell) -> Vec<u32> {
    let Sampling::Seeded { temperature, .. } = SAMPLED else {
        panic!("not sampled");
    };
    let mut row = Row::new(cell, None);
    let mut ids = cell.tokens.ids().to_vec();
    for _ in 0..LENGTH {
        let (logits, _) = naive(subject, &ids, &cell.interventions);
        ids.push(row.draw(logits.last().unwrap(), temperature));
    }
    ids.split_off(cell.tokens.len())
}

#[test]
fn both_sides_of_the_border_in_one_batch() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(3);
    let prompts = prompts(&mut draws);
    let cases: Vec<Case> = prompts
        .iter()
        .map(|tokens| {
            let last = tokens.len() - 1;
            let count = draws.below(3);
            Case {
                tokens: Arc::clone(tokens),
                edits: (0..count)
                    .map(|_| draws.edit(SPEC.n_layers, last, last + 1))
                    .collect(),
                readout: draws.readout(SPEC.n_layers, last + 1),
            }
        })
        .collect();
    let cells: Vec<Cell> = cases.iter().map(|case| case.cell(&subject)).collect();
    for (case, value) in cases.iter().zip(subject.values(&cells)) {
        let worst = case.compare(&subject, &value);
        let error = worst.relative.max(worst.absolute);
        assert!(error < TOLERANCE, "{}: {error:e}", case.tokens.len());
    }
}

/// The lists differ so much that a text on the wrong side would be seen.
#[test]
fn the_border_is_behind_its_last_short_text() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let ids = Draws::new(6).prompt(BORDER + 1).ids().to_vec();
    let first = Readout::Activation {
        hook: HookPoint::block(1, Site::AttnOut),
        position: 20,
    };
    let cells: Vec<Cell> = [BORDER - 1, BORDER, BORDER + 1]
        .map(|length| Arc::new(Tokens::new(ids[..length].to_vec())))
        .map(|tokens| subject.cell(&tokens, vec![], first.clone()))
        .to_vec();
    let vectors = subject.vectors(&cells);
    let difference = |i: usize| {
        let mut worst = Worst::default();
        worst.vector(&vectors[i], &vectors[1]);
        worst.relative
    };
    assert!(difference(0) < TOLERANCE, "{:e}", difference(0));
    assert!(difference(2) > 0.01, "{:e}", difference(2));
}

#[test]
fn texts_that_grow_long_are_those_of_recomputation() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(4);
    let prompts = prompts(&mut draws);
    let edits = edited(&mut draws, &prompts);
    let cells = |sampling| -> Vec<Cell> {
        let cells = prompts.iter().zip(&edits);
        cells
            .map(|(tokens, edits)| subject.cell(tokens, edits.clone(), generation(sampling, false)))
            .collect()
    };
    let (greedy, sampled) = (cells(Sampling::Greedy), cells(SAMPLED));
    let found = continuations(&mut subject, &[greedy.clone(), sampled.clone()].concat());
    for (cell, found) in greedy.iter().zip(&found) {
        let (ids, edits) = (cell.tokens.ids(), &cell.interventions);
        let expected = naive_greedy(&subject, ids, edits, LENGTH);
        assert_eq!(*found, expected, "{} tokens, {edits:?}", ids.len());
    }
    for (cell, found) in sampled.iter().zip(&found[greedy.len()..]) {
        let expected = naive_sampled(&subject, cell);
        assert_eq!(*found, expected, "{} tokens, sampled", cell.tokens.len());
    }
}

/// A row that has its end before the border is left alone, and one that ends behind it ends there.
#[test]
fn a_text_ends_on_either_side_of_the_border() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(5);
    let prompts = prompts(&mut draws);
    let mut run = |stop_at_end| {
        let cell = |tokens| subject.cell(tokens, vec![], generation(SAMPLED, stop_at_end));
        let cells: Vec<Cell> = prompts.iter().map(cell).collect();
        continuations(&mut subject, &cells)
    };
    let (stopped, whole) = (run(true), run(false));
    let (mut before, mut behind) = (0, 0);
    for ((stopped, whole), prompt) in stopped.iter().zip(&whole).zip(&prompts) {
        let end = whole.iter().position(|id| [3, 9, 27, 31].contains(id));
        assert_eq!(stopped[..], whole[..end.map_or(LENGTH, |at| at + 1)]);
        let Some(end) = end else { continue };
        match prompt.len() + end < BORDER {
            true => before += 1,
            false if prompt.len() <= BORDER => behind += 1,
            false => {}
        }
    }
    assert!(before > 1 && behind > 1, "{before} before, {behind} behind");
}

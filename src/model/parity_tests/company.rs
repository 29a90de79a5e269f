//! The bits of the real model's cells, alone and together.

use super::*;

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

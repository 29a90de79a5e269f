//! Texts that are edited at every token: their templates are computed apart, and their own tokens among those of others.

use super::*;

/// Cells of edits at every token, several of each text: of few templates, so that they are shared, and of few lists of edits.
pub(super) fn crowd(subject: &Subject, draws: &mut Draws, texts: usize) -> Vec<Cell> {
    let lists: Vec<Vec<Intervention>> = (0..4).map(|_| list(draws, subject.n_layers)).collect();
    let texts = (0..texts).flat_map(|_| {
        let length = 2 + draws.below(CONTEXT - MOST_GIVEN - 2);
        let tokens = draws.prompt(length);
        let edits = match draws.below(3) {
            0 => list(draws, subject.n_layers),
            _ => lists[draws.below(lists.len())].clone(),
        };
        let readouts = readouts(draws, subject.n_layers, length);
        let cells = readouts.into_iter();
        cells
            .map(move |readout| subject.cell(&tokens, edits.clone(), readout))
            .collect::<Vec<Cell>>()
    });
    let config = &subject.evaluator.transformer.config;
    let there = |cell: &Cell| cell.readout.hook().is_none_or(|hook| hook.is_in(config));
    texts.filter(there).collect()
}

/// One edit at all sites of the stream, or a few.
fn list(draws: &mut Draws, n_layers: usize) -> Vec<Intervention> {
    let everywhere = |hook, change: Edit| edit(hook, Positions::From(0), change);
    if draws.below(2) == 0 {
        let ablate = Edit::Ablate(draws.vector());
        let sites = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
        let hooks = (0..n_layers).flat_map(|layer| sites.map(|site| HookPoint::block(layer, site)));
        return hooks.map(|hook| everywhere(hook, ablate.clone())).collect();
    }
    let count = 1 + draws.below(2);
    let edits = (0..count).map(|_| {
        let hook = draws.hook(n_layers, &Site::RESIDUAL);
        everywhere(hook, draws.change())
    });
    edits.collect()
}

/// Several of one kind, as a study asks for them: numbers of the same logits, or vectors of several layers in the order of the computation, at
/// the last token or an earlier one.
fn readouts(draws: &mut Draws, n_layers: usize, length: usize) -> Vec<Readout> {
    if draws.below(2) == 0 {
        return (0..1 + draws.below(3))
            .map(|_| draws.readout(n_layers, length))
            .collect();
    }
    let position = match draws.below(2) {
        0 => length - 1,
        _ => draws.below(length),
    };
    let mut hooks: Vec<HookPoint> = (0..1 + draws.below(4))
        .map(|_| draws.hook(n_layers, &Site::ALL))
        .collect();
    if draws.below(3) > 0 {
        hooks.sort_unstable();
    }
    let hooks = hooks.into_iter();
    hooks
        .map(|hook| Readout::Activation { hook, position })
        .collect()
}

#[test]
fn they_are_the_naive_path() {
    let overall = std::cell::Cell::new(0f64);
    let result = runner(24).run(&specs(), |spec| {
        let mut subject = spec.load(Dtype::Float32, 1 << 30);
        let cells = crowd(&subject, &mut Draws::new(spec.seed), 12);
        let values = subject.values(&cells);
        for (cell, value) in cells.iter().zip(values) {
            let case = Case {
                tokens: Arc::clone(&cell.tokens),
                edits: cell.interventions.clone(),
                readout: cell.readout.clone(),
            };
            let worst = case.compare(&subject, &value);
            let error = worst.relative.max(worst.absolute);
            prop_assert!(
                error < TOLERANCE,
                "{error:e}: {:?}, {:?}",
                case.edits,
                case.readout
            );
            overall.set(overall.get().max(error));
        }
        Ok(())
    });
    result.unwrap();
    eprintln!("edited throughout against naive: {:e}", overall.get());
}

/// So that the tests here are of the way that they are meant for.
#[test]
fn most_of_the_crowd_is_computed_in_this_way() {
    let spec = specs().new_tree(&mut runner(1)).unwrap().current();
    let subject = spec.load(Dtype::Float32, 1 << 30);
    let cells = crowd(&subject, &mut Draws::new(3), 60);
    let such = cells
        .iter()
        .filter(|cell| subject.evaluator.is_of_text_edited_throughout(cell))
        .count();
    assert!(such * 2 > cells.len(), "{such} of {}", cells.len());
}

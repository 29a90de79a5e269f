//! A cell's value is its own: the same bits alone, in a crowd, after others, in another order, and in rounds.

use super::*;

/// Widths that are no multiple of a vector register, so that a kernel's edge cases are met.
const SPEC: Spec = Spec {
    family: "qwen2",
    n_layers: 3,
    heads: (2, 2),
    tied: false,
    biases: true,
    rope: 0,
    seed: 11,
};

/// A sweep over many prompts with cells of many kinds among it, some with the same prompt.
fn crowd(subject: &Subject, prompts: usize) -> Vec<Cell> {
    let mut draws = Draws::new(5);
    let mut cells = Vec::new();
    for number in 0..prompts {
        let case = Case::draw(&mut draws, subject.n_layers);
        cells.push(case.cell(subject));
        let last = case.tokens.len() - 1;
        for alpha in [-2.0, 1.5] {
            let vector = Arc::new(random_unit_vector(3, D_MODEL).unwrap());
            let steer = edit(
                HookPoint::block(1, Site::ResidPre),
                Positions::At(last),
                Edit::Add {
                    vector,
                    scale: alpha,
                },
            );
            let readout = score_readout(ScoreDtype::Float32);
            cells.push(subject.cell(&case.tokens, vec![steer.clone()], readout));
            if number % 8 == 0 {
                let from_last = Intervention {
                    positions: Positions::From(last),
                    ..steer.clone()
                };
                // Several readouts of one row.
                for readout in [
                    Readout::LogOdds([1, 4].into()),
                    Readout::Divergence { epsilon: 0.0 },
                    all_logits(VOCAB),
                ] {
                    cells.push(subject.cell(&case.tokens, vec![steer.clone()], readout));
                }
                cells.push(Case::continued(
                    subject,
                    &case.tokens,
                    vec![from_last],
                    alpha > 0.0,
                ));
            }
        }
    }
    let config = &subject.evaluator.transformer.config;
    let fits = |cell: &Cell| match cell.readout {
        Readout::Generation { max_new_tokens, .. } => cell.tokens.len() + max_new_tokens <= CONTEXT,
        Readout::Activation { hook, .. } | Readout::Mean { hook } => hook.is_in(config),
        _ => true,
    };
    cells.retain(fits);
    cells
}

impl Case {
    /// A continuation of six tokens, sampled or greedy.
    fn continued(
        subject: &Subject,
        tokens: &Arc<Tokens>,
        edits: Vec<Intervention>,
        sampled: bool,
    ) -> Cell {
        let sampling = match sampled {
            true => Sampling::Seeded {
                temperature: 2.0,
                seed: 4,
            },
            false => Sampling::Greedy,
        };
        let readout = Readout::Generation {
            max_new_tokens: 6,
            sampling,
            stop_at_end: true,
            further_ends: Arc::default(),
        };
        subject.cell(tokens, edits, readout)
    }
}

fn bits(values: &[Value]) -> Vec<Vec<u8>> {
    values.iter().map(Value::to_bytes).collect()
}

/// The cells in a shuffled order, with what brings an answer back into the old one.
fn shuffled(cells: &[Cell], seed: u64) -> (Vec<Cell>, Vec<usize>) {
    let mut draws = Draws::new(seed);
    let mut order: Vec<usize> = (0..cells.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, draws.below(i + 1));
    }
    (order.iter().map(|&i| cells[i].clone()).collect(), order)
}

fn assert_same(expected: &[Vec<u8>], order: &[usize], values: &[Value], company: &str) {
    let different: Vec<usize> = order
        .iter()
        .zip(bits(values))
        .filter(|(i, found)| expected[**i] != *found)
        .map(|(i, _)| *i)
        .collect();
    assert!(different.is_empty(), "{company}: cells {different:?}");
}

#[test]
fn bits_do_not_depend_on_the_company() {
    compare_companies(&SPEC, |subject| crowd(subject, 160));
}

#[test]
fn nor_where_texts_are_edited_throughout() {
    let edited = |subject: &Subject| throughout::crowd(subject, &mut Draws::new(6), 60);
    compare_companies(&SPEC, edited);
    let long = Spec {
        family: "phi3",
        ..SPEC
    };
    compare_companies(&long, edited);
}

/// How many rows an expert gets depends on the company, and a window hides much of it.
#[test]
fn nor_where_rows_go_to_experts() {
    let experts = Spec {
        family: "qwen3_moe",
        ..SPEC
    };
    compare_companies(&experts, |subject| crowd(subject, 60));
}

/// Prompts on both sides of the border start alike, and texts grow long in a tile with others that do not.
#[test]
fn nor_where_long_texts_are_turned_otherwise() {
    let long = Spec {
        family: "phi3",
        ..SPEC
    };
    compare_companies(&long, |subject| crowd(subject, 90));
}

fn compare_companies(spec: &Spec, crowd: impl Fn(&Subject) -> Vec<Cell>) {
    let mut subject = spec.load(Dtype::Float32, 1 << 30);
    let cells = crowd(&subject);
    let expected = bits(&subject.values(&cells));
    let in_order: Vec<usize> = (0..cells.len()).collect();
    assert_same(&expected, &in_order, &subject.values(&cells), "again");

    let (mixed, order) = shuffled(&cells, 1);
    let mut fresh = spec.load(Dtype::Float32, 1 << 30);
    assert_same(&expected, &order, &fresh.values(&mixed), "shuffled");

    // One byte: only as many prompts as fill a block are held at a time.
    let mut narrow = spec.load(Dtype::Float32, 1);
    assert_same(&expected, &order, &narrow.values(&mixed), "in rounds");

    let mut piecewise = spec.load(Dtype::Float32, 1);
    for (cells, order) in mixed.chunks(7).zip(order.chunks(7)) {
        assert_same(&expected, order, &piecewise.values(cells), "in pieces");
    }
    let mut alone = spec.load(Dtype::Float32, 1 << 30);
    for i in (0..cells.len()).step_by(9) {
        alone = spec.load(Dtype::Float32, 1 << 30);
        assert_same(
            &expected,
            &[i],
            &alone.values(&cells[i..=i]),
            "alone in a new store",
        );
    }
    for i in (0..cells.len()).step_by(3) {
        assert_same(&expected, &[i], &alone.values(&cells[i..=i]), "one by one");
    }
}

/// Prompts that are held for edits far back stand beside some that were prefilled for nearer ones.
#[test]
fn what_is_kept_of_a_prompt_may_be_more_than_is_needed() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(21);
    let prompts: Vec<Arc<Tokens>> = (0..6).map(|_| draws.prompt(30)).collect();
    let hook = HookPoint::block(1, Site::ResidPre);
    let cell = |subject: &Subject, tokens: &Arc<Tokens>, back: usize| {
        let vector = Arc::new(random_unit_vector(3, D_MODEL).unwrap());
        let add = Edit::Add { vector, scale: 2.0 };
        let positions = Positions::At(tokens.len() - back);
        let score = score_readout(ScoreDtype::Float32);
        subject.cell(tokens, vec![edit(hook, positions, add)], score)
    };
    let far = prompts[..3].iter().map(|tokens| cell(&subject, tokens, 9));
    let far: Vec<Cell> = far.collect();
    subject.values(&far);
    let near: Vec<Cell> = prompts.iter().map(|p| cell(&subject, p, 3)).collect();
    let found = bits(&subject.values(&near));
    let mut fresh = SPEC.load(Dtype::Float32, 1 << 30);
    assert_eq!(found, bits(&fresh.values(&near)));
}

/// A template that ends elsewhere is another prompt, even where the tokens are the same.
#[test]
fn where_the_template_ends_is_not_shared() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let ids = Draws::new(4).prompt(40).ids().to_vec();
    let prompts = [0, 5, 39].map(|template| Arc::new(Tokens::with_template(ids.clone(), template)));
    let cells = prompts.map(|tokens| subject.cell(&tokens, vec![], all_logits(VOCAB)));
    let together = bits(&subject.values(&cells));
    for (cell, expected) in cells.iter().zip(&together) {
        let mut alone = SPEC.load(Dtype::Float32, 1 << 30);
        assert_eq!(
            &bits(&alone.values(std::slice::from_ref(cell)))[0],
            expected
        );
    }
    let values = subject.vectors(&cells);
    let mut worst = Worst::default();
    for other in &values[1..] {
        worst.logits(other, &values[0]);
    }
    eprintln!("template or not: {:e}", worst.relative);
    assert!(worst.relative < TOLERANCE);
}

/// float32 ends at 3.4e38, so the mean square of a stream of 1e20 is infinite, and its norm would be zero: a score like any other.
#[test]
fn a_stream_beyond_the_format_is_an_error() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let tokens = Draws::new(9).prompt(30);
    let vector = Arc::new(random_unit_vector(1, D_MODEL).unwrap());
    let mut evaluate = |alpha: f64, position, readout| {
        let add = Edit::Add {
            vector: Arc::clone(&vector),
            scale: alpha,
        };
        let hook = HookPoint::block(1, Site::ResidPre);
        let cell = subject.cell(
            &tokens,
            vec![edit(hook, Positions::From(position), add)],
            readout,
        );
        let outcome = subject
            .evaluator
            .evaluate(&&[cell][..], &mut |_| std::ops::ControlFlow::Continue(()));
        outcome.map(|_| ()).map_err(|error| error.to_string())
    };
    let last = 29;
    let read = Readout::Activation {
        hook: HookPoint::block(2, Site::AttnOut),
        position: last,
    };
    let generation = Readout::Generation {
        max_new_tokens: 2,
        sampling: Sampling::Greedy,
        stop_at_end: false,
        further_ends: Arc::default(),
    };
    let readouts = [
        score_readout(ScoreDtype::Float32),
        all_logits(VOCAB),
        read,
        generation,
    ];
    for readout in readouts {
        assert_eq!(evaluate(1e15, last, readout.clone()), Ok(()));
        for position in [last, 7, 0] {
            let message = evaluate(1e21, position, readout.clone()).unwrap_err();
            let expected = "layer 1 (`blocks.1.hook_resid_pre`), α = 1e21: a value is not finite";
            assert!(message.contains(expected), "{message}");
        }
    }
}

/// Replacing a vector by itself starts the suffix path at another place than an unedited cell does, hence other roundings: within
/// 1e-6 of the largest logit.
#[test]
fn patching_with_its_own_vector_changes_nothing() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(8);
    let tokens = draws.prompt(21);
    let score = score_readout(ScoreDtype::Float32);
    let plain = subject.cell(&tokens, vec![], score.clone());
    let plain = subject.scores(&[plain])[0];
    let (logits, _) = naive(&subject, tokens.ids(), &[]);
    let scale = logits[20]
        .iter()
        .fold(0.0, |a, x| f64::max(a, f64::from(x.abs())));
    let mut worst = Worst::default();
    for site in Site::RESIDUAL {
        for (layer, position) in [(0, 20), (1, 20), (2, 20), (0, 7), (2, 7)] {
            let hook = HookPoint::block(layer, site);
            let read = Readout::Activation { hook, position };
            let own = subject.cell(&tokens, vec![], read);
            let own = Arc::new(Vector::new(subject.vectors(&[own]).remove(0)));
            let replace = edit(hook, Positions::At(position), Edit::Replace(own));
            let patched = subject.cell(&tokens, vec![replace], score.clone());
            worst.scalar(subject.scores(&[patched])[0] / scale, plain / scale);
        }
    }
    eprintln!("patched with itself: {:e}", worst.absolute);
    assert!(worst.absolute < 1e-6);
}

#[test]
fn steering_is_continuous_at_zero() {
    let mut subject = SPEC.load(Dtype::Float32, 1 << 30);
    let tokens = Draws::new(9).prompt(30);
    let vector = Arc::new(random_unit_vector(1, D_MODEL).unwrap());
    for (site, position) in [(Site::ResidPre, 29), (Site::MlpOut, 29), (Site::AttnOut, 4)] {
        let mut score = |alpha: f64| {
            let add = Edit::Add {
                vector: Arc::clone(&vector),
                scale: alpha,
            };
            let steer = edit(HookPoint::block(1, site), Positions::From(position), add);
            let cell = subject.cell(&tokens, vec![steer], score_readout(ScoreDtype::Float32));
            subject.scores(&[cell])[0]
        };
        let (zero, small) = (score(0.0), score(1e-2));
        assert_ne!(zero, small);
        // A tenth of α gives a tenth of the change, up to curvature and rounding.
        let ratio = (score(1e-3) - zero) / (small - zero);
        assert!((ratio - 0.1).abs() < 0.02, "{site}: {ratio}");
        assert!((score(1e-9) - zero).abs() < 1e-5);
    }
}

/// A number rounded to bfloat16 is off by up to 2⁻⁸ of itself, to float16 by 2⁻¹¹. Three blocks of about ten rounded steps each add up
/// like a random walk, √30 steps long; the worst of sixty cases may be three times that.
#[test]
fn shorter_formats_run_and_are_near() {
    let mut exact = SPEC.load(Dtype::Float32, 1 << 30);
    let mut draws = Draws::new(10);
    let cases: Vec<Case> = (0..60)
        .map(|_| Case::draw(&mut draws, exact.n_layers))
        .filter(|case| {
            let of_vectors = |readout: &Readout| {
                matches!(
                    readout,
                    Readout::Activation { .. } | Readout::LogProbabilities(_)
                )
            };
            of_vectors(&case.readout)
        })
        .collect();
    let cells: Vec<Cell> = cases.iter().map(|case| case.cell(&exact)).collect();
    let expected = exact.vectors(&cells);
    for (dtype, bits) in [(Dtype::BFloat16, 8), (Dtype::Float16, 11)] {
        let tolerance = 3.0 * 30f64.sqrt() * 2f64.powi(-bits);
        let mut subject = SPEC.load(dtype, 1 << 30);
        let cells: Vec<Cell> = cases.iter().map(|case| case.cell(&subject)).collect();
        let mut worst = Worst::default();
        for ((found, expected), case) in subject.vectors(&cells).iter().zip(&expected).zip(&cases) {
            match case.readout {
                Readout::LogProbabilities(_) => worst.logits(found, expected),
                _ => worst.vector(found, expected),
            }
        }
        eprintln!("{}: {worst:?}", dtype.name());
        assert!(worst.relative < tolerance);
        for score in [ScoreDtype::Float32, ScoreDtype::Model] {
            let cell = subject.cell(&cases[0].tokens, vec![], score_readout(score));
            assert!(subject.scores(&[cell])[0].is_finite());
        }
    }
}

//! What edits promise, whatever the model: identities of their definitions, seen at the hook points themselves.

use super::*;

const SPEC: Spec = Spec {
    family: "llama",
    n_layers: 3,
    heads: (2, 2),
    tied: false,
    biases: false,
    rope: 2,
    seed: 31,
};

/// At the input of every block and at what attention and MLP add, in every position.
fn everywhere(change: &Edit) -> Vec<Intervention> {
    let sites = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
    let hooks = (0..SPEC.n_layers).flat_map(|l| sites.map(|site| HookPoint::block(l, site)));
    hooks
        .map(|hook| edit(hook, Positions::From(0), change.clone()))
        .collect()
}

fn along(x: &[f32], v: &Vector) -> f64 {
    let products = x.iter().zip(v.values());
    products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().sqrt()
}

/// A model with a prompt, and vectors to edit with.
struct Bench {
    subject: Subject,
    tokens: Arc<Tokens>,
    draws: Draws,
}

impl Bench {
    fn new() -> Self {
        let mut draws = Draws::new(12);
        Bench {
            subject: SPEC.load(Dtype::Float32, 1 << 30),
            tokens: draws.prompt(23),
            draws,
        }
    }

    fn read(&mut self, edits: &[Intervention], hook: HookPoint, position: usize) -> Vec<f32> {
        let readout = Readout::Activation { hook, position };
        let cell = self.subject.cell(&self.tokens, edits.to_vec(), readout);
        self.subject.vectors(&[cell]).remove(0)
    }

    fn score(&mut self, edits: &[Intervention]) -> f64 {
        let score = score_readout(ScoreDtype::Float32);
        let cell = self.subject.cell(&self.tokens, edits.to_vec(), score);
        self.subject.scores(&[cell])[0]
    }
}

/// Where the whole text is edited, at its last token, and where nothing is: then nothing diverges, to the bit.
#[test]
fn an_edit_diverges_from_the_unedited_prompt_and_no_edit_does_not() {
    let mut bench = Bench::new();
    let v = bench.draws.vector();
    let mut read = |edits: &[Intervention], epsilon: f64| {
        let readout = Readout::Divergence { epsilon };
        let cell = bench.subject.cell(&bench.tokens, edits.to_vec(), readout);
        match bench.subject.values(&[cell]).remove(0) {
            Value::Divergence { nats, agreement } => (nats, agreement),
            value => panic!("{value:?}"),
        }
    };
    let add = Edit::Add {
        vector: Arc::clone(&v),
        scale: 3.0,
    };
    let hook = HookPoint::block(1, Site::ResidPre);
    for epsilon in [0.0, 1e-6] {
        assert_eq!(read(&[], epsilon), (0.0, 1.0));
        for edits in [
            everywhere(&Edit::Ablate(Arc::clone(&v))),
            vec![edit(hook, Positions::At(22), add.clone())],
            vec![edit(hook, Positions::From(0), add.clone())],
        ] {
            assert!(read(&edits, epsilon).0 > 1e-6, "{edits:?}");
        }
    }
}

#[test]
fn ablated_everywhere_nothing_is_left_along_the_direction() {
    let mut bench = Bench::new();
    let v = bench.draws.vector();
    let edits = everywhere(&Edit::Ablate(Arc::clone(&v)));
    for layer in 0..SPEC.n_layers {
        for site in Site::RESIDUAL {
            for position in [0, 9, 22] {
                let x = bench.read(&edits, HookPoint::block(layer, site), position);
                let left = along(&x, &v).abs() / norm(&x);
                assert!(left < 1e-5, "{site} of layer {layer}, {position}: {left:e}");
            }
        }
    }
    let twice: Vec<Intervention> = edits.iter().flat_map(|e| [e.clone(), e.clone()]).collect();
    let (once, twice) = (bench.score(&edits), bench.score(&twice));
    assert!((once - twice).abs() < 1e-4, "{once} {twice}");
    assert_ne!(once, bench.score(&[]));
}

/// To the bit: a span of one vector, and the level 0.
#[test]
fn an_ablation_is_the_simplest_of_its_kinds() {
    let mut bench = Bench::new();
    let v = bench.draws.vector();
    let hook = HookPoint::block(1, Site::ResidPre);
    let at = |change: Edit| [edit(hook, Positions::From(4), change)];
    let ablated = bench.score(&at(Edit::Ablate(Arc::clone(&v))));
    let span = bench.score(&at(Edit::AblateSpan([Arc::clone(&v)].into())));
    let level = Edit::SetLevel {
        read: Arc::clone(&v),
        write: Arc::clone(&v),
        level: 0.0,
    };
    assert_eq!(ablated.to_bits(), span.to_bits());
    assert_eq!(ablated.to_bits(), bench.score(&at(level)).to_bits());
}

#[test]
fn a_span_is_gone_whatever_its_basis() {
    let mut bench = Bench::new();
    let basis = bench.draws.orthonormal(2);
    let turned = |sign: f32| -> Arc<Vector> {
        let pairs = basis[0].values().iter().zip(basis[1].values());
        let values = pairs.map(|(a, b)| 0.6 * a + sign * 0.8 * b).collect();
        Arc::new(Vector::new(values))
    };
    let other = {
        let pairs = basis[0].values().iter().zip(basis[1].values());
        Arc::new(Vector::new(pairs.map(|(a, b)| 0.8 * a - 0.6 * b).collect()))
    };
    let hook = HookPoint::block(2, Site::ResidPre);
    let at = |span: Vec<Arc<Vector>>| {
        let span = Edit::AblateSpan(span.into());
        [edit(hook, Positions::At(22), span)]
    };
    let one = bench.read(&at(basis.clone()), hook, 22);
    let same = bench.read(&at(vec![turned(1.0), other]), hook, 22);
    let mut worst = Worst::default();
    worst.vector(&same, &one);
    assert!(worst.relative < 1e-5, "{:e}", worst.relative);
    assert!(basis.iter().all(|v| along(&one, v).abs() < 1e-5));
}

#[test]
fn a_level_is_reached_and_nothing_else_changed() {
    let mut bench = Bench::new();
    let v = bench.draws.vector();
    let hook = HookPoint::block(1, Site::MlpOut);
    let level = Edit::SetLevel {
        read: Arc::clone(&v),
        write: Arc::clone(&v),
        level: 1.25,
    };
    let before = bench.read(&[], hook, 7);
    let after = bench.read(&[edit(hook, Positions::At(7), level)], hook, 7);
    assert!((along(&after, &v) - 1.25).abs() < 1e-5);
    let moved = 1.25 - along(&before, &v);
    let expected: Vec<f32> = before
        .iter()
        .zip(v.values())
        .map(|(x, v)| x + (moved * f64::from(*v)) as f32)
        .collect();
    let mut worst = Worst::default();
    worst.vector(&after, &expected);
    assert!(worst.relative < 1e-5, "{:e}", worst.relative);
}

#[test]
fn a_rotation_keeps_the_length_and_reaches_its_angle() {
    let mut bench = Bench::new();
    let plane = bench.draws.orthonormal(2);
    let hook = HookPoint::block(1, Site::ResidPre);
    let before = bench.read(&[], hook, 22);
    let (a, b) = (along(&before, &plane[0]), along(&before, &plane[1]));
    let own = b.atan2(a).to_degrees();
    for degrees in [0.0, 30.0, 180.0, 275.0, own] {
        let turn = Edit::Rotate {
            first: Arc::clone(&plane[0]),
            second: Arc::clone(&plane[1]),
            degrees,
        };
        let after = bench.read(&[edit(hook, Positions::At(22), turn)], hook, 22);
        assert!((norm(&after) / norm(&before) - 1.0).abs() < 1e-5);
        let length = a.hypot(b);
        let (x, y) = (along(&after, &plane[0]), along(&after, &plane[1]));
        let angle = degrees.to_radians();
        assert!((x - length * angle.cos()).abs() < 1e-4, "{degrees}");
        assert!((y - length * angle.sin()).abs() < 1e-4, "{degrees}");
        if degrees == own {
            let mut worst = Worst::default();
            worst.vector(&after, &before);
            assert!(worst.relative < 1e-5, "its own angle: {:e}", worst.relative);
        }
    }
}

/// An edit at all positions is that of every position by itself, and one behind what is read is none.
#[test]
fn positions_add_up() {
    let mut bench = Bench::new();
    let v = bench.draws.vector();
    let hook = HookPoint::block(1, Site::ResidPre);
    let add = |positions| {
        let vector = Arc::clone(&v);
        edit(hook, positions, Edit::Add { vector, scale: 1.5 })
    };
    let all = bench.score(&[add(Positions::of([(0, 23)]).unwrap())]);
    let open = bench.score(&[add(Positions::From(0))]);
    assert_eq!(all.to_bits(), open.to_bits());
    let each: Vec<Intervention> = (0..23).map(|p| add(Positions::At(p))).collect();
    let each = bench.score(&each);
    assert!((all - each).abs() < 1e-4, "{all} {each}");
    let halves = Positions::of([(0, 9), (12, 23)]).unwrap();
    let gap = bench.score(&[add(halves), add(Positions::of([(9, 12)]).unwrap())]);
    assert!((all - gap).abs() < 1e-4, "{all} {gap}");
    let behind = bench.score(&[add(Positions::From(23))]);
    assert_eq!(behind.to_bits(), bench.score(&[]).to_bits());
}

/// The probability of a text is that of its first token, of its second behind that, and so on; edits of generated positions reach the later ones.
#[test]
fn the_probability_of_a_text_is_the_product_of_its_tokens() {
    let mut bench = Bench::new();
    let vector = bench.draws.vector();
    let hook = HookPoint::block(1, Site::ResidPre);
    let add = Edit::Add { vector, scale: 2.0 };
    let text = [4u32, 9, 30];
    for edits in [
        vec![],
        vec![edit(hook, Positions::From(22), add.clone())],
        vec![edit(hook, Positions::From(23), add)],
    ] {
        let readout = Readout::Continuation(text.into());
        let whole = bench.subject.cell(&bench.tokens, edits.clone(), readout);
        let whole = bench.subject.scores(&[whole])[0];
        let mut sum = 0.0;
        for (index, id) in text.iter().enumerate() {
            let tokens = Arc::new(bench.tokens.continued(&text[..index]));
            let readout = Readout::LogProbabilities(Arc::new(vec![*id]));
            let cell = bench.subject.cell(&tokens, edits.clone(), readout);
            sum += f64::from(bench.subject.vectors(&[cell])[0][0]);
        }
        assert!((whole - sum).abs() < 1e-4, "{whole} {sum}");
    }
}

use super::*;
use crate::model::hooks::Site;

fn add(layer: usize, site: Site, values: Vec<f32>, scale: f64) -> Intervention {
    Intervention {
        hook: HookPoint::block(layer, site),
        positions: Positions::At(2),
        edit: Edit::Add {
            vector: Arc::new(Vector::new(values)),
            scale,
        },
    }
}

fn score(dtype: ScoreDtype) -> Readout {
    Readout::Score(Arc::new(TokenSets {
        refuse: vec![1, 2],
        comply: vec![3],
        dtype,
    }))
}

fn cell(interventions: Vec<Intervention>) -> Cell {
    let model = blake3::hash(b"model");
    let tokens = Arc::new(Tokens::new(vec![5, 6, 7]));
    Cell::new(model, tokens, interventions, score(ScoreDtype::Float32), 4)
}

#[test]
fn alpha_zero_is_the_unsteered_cell() {
    let steered = cell(vec![add(1, Site::ResidPre, vec![1.0], 0.0)]);
    assert_eq!(steered.key(), cell(vec![]).key());
    assert_ne!(
        cell(vec![add(1, Site::ResidPre, vec![1.0], 1e-9)]).key(),
        cell(vec![]).key()
    );
}

#[test]
fn resid_post_is_the_next_resid_pre() {
    let post = cell(vec![add(1, Site::ResidPost, vec![1.0], 2.0)]);
    let pre = cell(vec![add(2, Site::ResidPre, vec![1.0], 2.0)]);
    assert_eq!(post.key(), pre.key());
    let last = cell(vec![add(3, Site::ResidPost, vec![1.0], 2.0)]);
    assert_ne!(last.key(), pre.key());
}

#[test]
fn only_edits_that_commute_change_places() {
    let at = |position, value| Intervention {
        positions: Positions::At(position),
        ..add(1, Site::ResidPre, vec![value], 1.0)
    };
    let from = |position, value| Intervention {
        positions: Positions::From(position),
        ..at(0, value)
    };
    let order = |edits: [Intervention; 2]| {
        let cell = cell(edits.to_vec());
        cell.interventions
            .iter()
            .map(|i| i.positions.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        order([at(1, 2.0), at(0, 3.0)]),
        [Positions::At(0), Positions::At(1)]
    );
    assert_eq!(
        order([at(1, 2.0), from(0, 3.0)]),
        [Positions::At(1), Positions::From(0)]
    );
    assert_eq!(
        order([from(0, 3.0), at(1, 2.0)]),
        [Positions::From(0), Positions::At(1)]
    );
}

#[test]
fn an_activation_knows_only_what_comes_before_it() {
    let read = |hook, edits: Vec<Intervention>| {
        let readout = Readout::Activation { hook, position: 1 };
        let tokens = Arc::new(Tokens::new(vec![5, 6, 7]));
        Cell::new(blake3::hash(b"model"), tokens, edits, readout, 4).key()
    };
    let edit = |layer, site, position| Intervention {
        positions: Positions::From(position),
        ..add(layer, site, vec![1.0], 2.0)
    };
    let post = HookPoint::block(1, Site::ResidPost);
    let pre = HookPoint::block(2, Site::ResidPre);
    assert_eq!(
        read(post, vec![edit(2, Site::ResidPre, 0)]),
        read(post, vec![])
    );
    assert_eq!(
        read(post, vec![edit(1, Site::ResidPre, 2)]),
        read(post, vec![])
    );
    assert_ne!(
        read(pre, vec![edit(2, Site::ResidPre, 0)]),
        read(pre, vec![])
    );
    assert_eq!(
        read(post, vec![edit(1, Site::ResidPost, 0)]),
        read(pre, vec![edit(2, Site::ResidPre, 0)])
    );
    assert_eq!(read(post, vec![]), read(pre, vec![]));
}

#[test]
fn a_replaced_stream_hides_what_was_replaced_below() {
    let replace = |layer, site| Intervention {
        hook: HookPoint::block(layer, site),
        positions: Positions::At(2),
        edit: Edit::Replace(Arc::new(Vector::new(vec![layer as f32]))),
    };
    let only = cell(vec![replace(3, Site::ResidPre)]);
    let both = cell(vec![replace(2, Site::ResidPre), replace(3, Site::ResidPre)]);
    assert_eq!(only.key(), both.key());
    let outputs = cell(vec![replace(2, Site::MlpOut), replace(3, Site::MlpOut)]);
    assert_ne!(outputs.key(), cell(vec![replace(3, Site::MlpOut)]).key());
}

fn set_level(read: [f32; 2], write: [f32; 2], level: f64) -> Edit {
    let vector = |values: [f32; 2]| Arc::new(Vector::new(values.to_vec()));
    Edit::SetLevel {
        read: vector(read),
        write: vector(write),
        level,
    }
}

fn rotate(degrees: f64) -> Edit {
    Edit::Rotate {
        first: Arc::new(Vector::new(vec![1.0, 0.0])),
        second: Arc::new(Vector::new(vec![0.0, 1.0])),
        degrees,
    }
}

#[test]
fn every_field_changes_the_key() {
    let base = cell(vec![add(1, Site::ResidPre, vec![1.0, 0.0], 2.0)]);
    let mut variants = vec![
        cell(vec![]),
        cell(vec![add(2, Site::ResidPre, vec![1.0, 0.0], 2.0)]),
        cell(vec![add(1, Site::ResidMid, vec![1.0, 0.0], 2.0)]),
        cell(vec![add(1, Site::ResidPre, vec![0.0, 1.0], 2.0)]),
        cell(vec![add(1, Site::ResidPre, vec![1.0, 0.0], 3.0)]),
    ];
    let mut changed = base.clone();
    changed.model = blake3::hash(b"another");
    variants.push(changed);
    let mut changed = base.clone();
    changed.tokens = Arc::new(Tokens::new(vec![5, 6, 8]));
    variants.push(changed);
    let mut changed = base.clone();
    changed.interventions[0].positions = Positions::At(1);
    variants.push(changed);
    let mut changed = base.clone();
    changed.interventions[0].positions = Positions::From(2);
    variants.push(changed);
    let mut changed = base.clone();
    let ranges = Positions::of([(0, 1), (2, Positions::OPEN)]).unwrap();
    changed.interventions[0].positions = ranges;
    variants.push(changed);
    for edit in [
        Edit::Ablate(Arc::new(Vector::new(vec![1.0, 0.0]))),
        Edit::Replace(Arc::new(Vector::new(vec![1.0, 0.0]))),
        Edit::AblateSpan([Arc::new(Vector::new(vec![1.0, 0.0]))].into()),
        set_level([1.0, 0.0], [1.0, 0.0], 0.0),
        set_level([0.0, 1.0], [1.0, 0.0], 0.0),
        set_level([1.0, 0.0], [0.0, 1.0], 0.0),
        set_level([1.0, 0.0], [1.0, 0.0], 1.0),
        rotate(0.0),
        rotate(90.0),
    ] {
        let mut changed = base.clone();
        changed.interventions[0].edit = edit;
        variants.push(changed);
    }
    let generation = |max_new_tokens, sampling, stop_at_end| Readout::Generation {
        max_new_tokens,
        sampling,
        stop_at_end,
        further_ends: Arc::default(),
    };
    let ending_at = |ids: &[u32]| Readout::Generation {
        max_new_tokens: 4,
        sampling: Sampling::Greedy,
        stop_at_end: true,
        further_ends: ids.into(),
    };
    let seeded = |temperature, seed| Sampling::Seeded { temperature, seed };
    for readout in [
        ending_at(&[1]),
        ending_at(&[2]),
        ending_at(&[1, 2]),
        score(ScoreDtype::Model),
        Readout::LogProbabilities(Arc::new(vec![1])),
        Readout::LogProbabilities(Arc::new(vec![2])),
        Readout::LogOdds([1].into()),
        Readout::LogOdds([1, 2].into()),
        Readout::Divergence { epsilon: 0.0 },
        Readout::Divergence { epsilon: 1e-6 },
        Readout::Continuation([1].into()),
        Readout::Continuation([1, 2].into()),
        Readout::Mean {
            hook: HookPoint::block(1, Site::ResidPre),
        },
        Readout::Mean {
            hook: HookPoint::block(2, Site::ResidPre),
        },
        Readout::Activation {
            hook: HookPoint::block(1, Site::ResidPre),
            position: 2,
        },
        Readout::Activation {
            hook: HookPoint::block(1, Site::ResidPre),
            position: 1,
        },
        generation(4, Sampling::Greedy, true),
        generation(5, Sampling::Greedy, true),
        generation(4, Sampling::Greedy, false),
        generation(4, seeded(1.0, 0), true),
        generation(4, seeded(1.0, 1), true),
        generation(4, seeded(0.5, 0), true),
    ] {
        let mut changed = base.clone();
        changed.readout = readout;
        variants.push(changed);
    }
    variants.push(base);
    let keys: std::collections::HashSet<_> = variants.iter().map(Cell::key).collect();
    assert_eq!(keys.len(), variants.len());
}

#[test]
fn values_round_trip_and_bad_bytes_are_refused() {
    for value in [
        Value::Score(-1.25),
        Value::LogProbabilities(vec![-0.5]),
        Value::Activation(vec![1.0, 2.0]),
        Value::Generation(vec![7, 8, 9]),
        Value::Generation(vec![]),
        Value::Divergence {
            nats: 0.25,
            agreement: 1.0,
        },
    ] {
        assert_eq!(Value::from_bytes(&value.to_bytes()), Some(value));
    }
    for bytes in [&[][..], &[0, 1], &[2, 1, 2, 3], &[9, 0, 0, 0, 0]] {
        assert_eq!(Value::from_bytes(bytes), None);
    }
}

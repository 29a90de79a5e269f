//! The two rounds and their tables, on a toy that stands for both models.

use crate::model::{Cells, ScoreDtype, TokenSets, Value};
use crate::prompts::Prompt;
use crate::stages::settings::ScoreRule;
use crate::stages::table::{read_integers, read_numbers, read_text};

use std::sync::LazyLock;

use super::*;

const N_LAYERS: usize = 3;

/// A model with a stream of one number: every hook point holds 10 · layer + the token there, and the score is the sum of what was
/// put into the stream at the last position, or without an edit the last token.
#[derive(Default)]
struct Toy {
    rounds: Vec<Vec<Cell>>,
}

impl Evaluate for Toy {
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError> {
        let value = |cell: &Cell| match &cell.readout {
            Readout::Activation {
                hook: HookPoint::Block { layer, .. },
                position,
            } => Value::Activation(vec![
                10.0 * *layer as f32 + cell.tokens.ids()[*position] as f32,
            ]),
            _ => Value::Score(score(cell)),
        };
        let cells: Vec<Cell> = (0..cells.count())
            .map(|number| cells.cell(number))
            .collect();
        for (number, cell) in cells.iter().enumerate() {
            take(number, value(cell));
        }
        self.rounds.push(cells);
        Ok(())
    }
}

fn score(cell: &Cell) -> f64 {
    let put = |intervention: &Intervention| match &intervention.edit {
        Edit::Replace(vector) => f64::from(vector.values()[0]),
        other => panic!("patching replaces, found {other:?}"),
    };
    match cell.interventions.as_slice() {
        [] => f64::from(cell.tokens.ids()[cell.tokens.len() - 1]),
        edits => edits.iter().map(put).sum(),
    }
}

fn prompts() -> PromptSet {
    let prompt = |id: &str, split: &str| Prompt {
        id: id.to_string(),
        text: id.to_string(),
        split: split.to_string(),
        category: format!("category of {id}"),
        other: serde_json::Map::new(),
        line: 1,
    };
    PromptSet {
        notes: Vec::new(),
        public: None,
        prompts: vec![
            prompt("h1", "harmful"),
            prompt("h2", "harmful"),
            prompt("e1", "edge"),
        ],
    }
}

fn side(name: &str, tokens: [&[u32]; 3]) -> Side {
    let sets = TokenSets {
        refuse: vec![1],
        comply: vec![2],
        dtype: ScoreDtype::Float32,
    };
    Side {
        name: name.to_string(),
        fingerprint: blake3::hash(name.as_bytes()),
        n_layers: N_LAYERS,
        tokens: tokens
            .map(|ids| Arc::new(Tokens::new(ids.to_vec())))
            .to_vec(),
        readings: Readings::plain(Readout::Score(Arc::new(sets))),
    }
}

fn variant(site: Site, number: usize, layers: &[usize]) -> Variant {
    Variant {
        site,
        number,
        layers: layers.to_vec(),
    }
}

fn pair(donor: usize, recipient: usize) -> Pair {
    Pair { donor, recipient }
}

fn experiment<'a>(
    prompts: &'a PromptSet,
    pairs: Vec<Pair>,
    variants: Vec<Variant>,
) -> Experiment<'a> {
    Experiment {
        donor: side("inst", [&[5, 5, 7], &[9, 4], &[8, 6]]),
        recipient: side("base", [&[5, 5, 7], &[9, 4], &[8, 6]]),
        prompts,
        pairs,
        variants,
        places: Places::last(),
        rules: &RULES,
    }
}

static RULES: LazyLock<Vec<Arc<Rule>>> = LazyLock::new(|| {
    let default = ScoreRule::default();
    vec![Arc::new(Rule::default_of(&default, None))]
});

#[test]
fn donors_are_read_and_recipients_patched_at_positions_from_the_end() {
    let prompts = prompts();
    let variants = vec![
        variant(Site::AttnOut, 1, &[1]),
        variant(Site::ResidPre, 2, &[2]),
    ];
    let mut of_prompts = experiment(&prompts, vec![pair(0, 2), pair(1, 2)], variants);
    of_prompts.places = Places::at(&[-2]);
    let mut toy = Toy::default();
    let effects = of_prompts
        .measure(&mut toy)
        .expect("the toy answers everything");
    // The donors' last tokens, the recipient's last token, and 10 · layer + the donors' last token but one.
    assert_eq!(effects.donor, [7.0, 4.0]);
    assert_eq!(effects.recipient, [6.0, 6.0]);
    assert_eq!(effects.patched, [15.0, 19.0, 25.0, 29.0]);
    assert_eq!(effects.of(1, 0), (19.0, 1.0));
    let [first, second] = toy.rounds.as_slice() else {
        panic!("{} rounds", toy.rounds.len());
    };
    assert_eq!(first.len(), 2 + 2 + 2 * 2);
    assert!(
        second
            .iter()
            .all(|cell| cell.model == of_prompts.recipient.fingerprint)
    );
    assert!(
        second
            .iter()
            .all(|cell| cell.interventions[0].positions == Positions::At(0))
    );
    of_prompts.places = Places::at(&[-3]);
    let told = of_prompts
        .measure(&mut toy)
        .err()
        .map(|error| error.to_string());
    assert!(
        told.as_ref()
            .is_some_and(|t| t.contains("prompt `e1` has 2 tokens")),
        "{told:?}"
    );
    assert_eq!(toy.rounds.len(), 2, "told before anything is computed");
}

#[test]
fn activations_come_from_the_donor_and_scores_from_both() {
    let prompts = prompts();
    let mut between = experiment(
        &prompts,
        vec![pair(0, 0)],
        vec![variant(Site::MlpOut, 0, &[0])],
    );
    between.donor.tokens[0] = Arc::new(Tokens::new(vec![5, 5, 3]));
    let mut toy = Toy::default();
    let effects = between
        .measure(&mut toy)
        .expect("the toy answers everything");
    assert_eq!(
        (effects.donor[0], effects.recipient[0], effects.patched[0]),
        (3.0, 7.0, 3.0)
    );
    let models: Vec<_> = toy.rounds[0].iter().map(|cell| cell.model).collect();
    let (inst, base) = (between.donor.fingerprint, between.recipient.fingerprint);
    assert_eq!(models, [inst, base, inst]);
}

#[test]
fn the_last_k_of_a_stream_are_one_cell_and_of_a_part_are_not() {
    let prompts = prompts();
    let last_k = |site| (1..=N_LAYERS).map(move |k| variant(site, k, &[0, 1, 2][N_LAYERS - k..]));
    let keys = |site| {
        let mut toy = Toy::default();
        let run = experiment(&prompts, vec![pair(0, 0)], last_k(site).collect());
        run.measure(&mut toy).expect("the toy answers everything");
        let mut keys: Vec<_> = toy.rounds[1]
            .iter()
            .map(|cell| *cell.key().as_bytes())
            .collect();
        assert_eq!(keys.len(), N_LAYERS);
        keys.dedup();
        keys.len()
    };
    for site in [Site::ResidPre, Site::ResidMid, Site::ResidPost] {
        assert_eq!(keys(site), 1, "{site}");
    }
    for site in [Site::AttnOut, Site::MlpOut] {
        assert_eq!(keys(site), N_LAYERS, "{site}");
    }
}

#[test]
fn tables_hold_every_variant_pair_and_split() {
    let prompts = prompts();
    let variants = vec![
        variant(Site::AttnOut, 0, &[0]),
        variant(Site::AttnOut, 1, &[1]),
    ];
    let run = experiment(&prompts, vec![pair(0, 0), pair(1, 1), pair(2, 2)], variants);
    let effects = Effects {
        donor: vec![3.0, 1.0, 2.5],
        recipient: vec![1.0, 2.0, 2.0],
        patched: vec![2.0, 1.0, 4.0, 1.0, 2.0, 2.0],
    };
    let table = run.table(&effects, "layer").expect("finite numbers");
    assert_eq!(
        read_text(&table, "donor_model").ok(),
        Some(vec!["inst".to_string(); 6])
    );
    assert_eq!(
        read_text(&table, "recipient_model").ok(),
        Some(vec!["base".to_string(); 6])
    );
    let ids = ["h1", "h2", "e1", "h1", "h2", "e1"]
        .map(str::to_string)
        .to_vec();
    assert_eq!(read_text(&table, "recipient").ok(), Some(ids));
    assert_eq!(
        read_numbers(&table, "score_donor").ok(),
        Some(vec![3.0, 1.0, 2.5, 3.0, 1.0, 2.5])
    );
    assert_eq!(
        read_numbers(&table, "delta").ok(),
        Some(vec![1.0, -1.0, 2.0, 0.0, 0.0, 0.0])
    );
    // Donor − recipient is 2, −1 and 0.5, the last below the floor.
    let means = run.means(&effects, "layer", 1.0).expect("finite numbers");
    let splits = ["harmful", "edge", "harmful", "edge"]
        .map(str::to_string)
        .to_vec();
    assert_eq!(read_text(&means, "split").ok(), Some(splits));
    assert_eq!(
        read_numbers(&means, "mean_delta").ok(),
        Some(vec![0.0, 2.0, 0.0, 0.0])
    );
    let recovery = means
        .column("mean_recovery")
        .and_then(|column| Ok(column.f64()?.to_vec()));
    assert_eq!(recovery.ok(), Some(vec![Some(0.75), None, Some(0.0), None]));
    let integers = |name| read_integers(&means, name).unwrap_or_default();
    assert_eq!(integers("layer"), [0, 0, 1, 1].map(Some));
    assert_eq!(integers("n"), [2, 1, 2, 1].map(Some));
    assert_eq!(integers("n_recovery"), [2, 0, 2, 0].map(Some));
    assert_eq!(integers("n_left_out"), [0, 1, 0, 1].map(Some));
}

#[test]
fn recovery_is_the_mean_of_ratios_at_or_above_the_floor() {
    let mean = Mean::of(&[(1.0, 2.0), (3.0, -1.0), (5.0, 0.5)], 1.0).unwrap();
    assert_eq!(mean.delta, 3.0);
    // 1 / 2 and 3 / −1; a gap of exactly the floor counts.
    assert_eq!(mean.recovery, Some(-1.25));
    assert_eq!((mean.n, mean.n_recovery), (3, 2));
}

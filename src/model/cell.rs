//! The cell: the unit that is keyed, cached and resumed.
//!
//! A cell is *(model, token ids, interventions, readout)*. Ids, splits, categories and thresholds are no part of it: they join when
//! a stage assembles its table. Two cells that must give the same value have one key: an added vector with scale 0 is no
//! intervention, and `resid_post` of block l is `resid_pre` of block l + 1.

use std::sync::Arc;

use super::hooks::HookPoint;

/// Version of the arithmetic behind [`Readout`]s. Raise it when a change may alter any value.
pub const EVALUATION_VERSION: u32 = 1;

/// A prompt as the model sees it, with the hash of its ids.
#[derive(Debug, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<u32>,
    hash: blake3::Hash,
}

impl Tokens {
    /// Token ids in order, `[pos]`.
    pub fn new(ids: Vec<u32>) -> Self {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        Tokens { ids, hash }
    }

    /// Token ids in order, `[pos]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// blake3 of the ids as little-endian u32.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }
}

/// A vector of the residual stream, `[d_model]`, float32, with the hash of its content.
#[derive(Debug, PartialEq)]
pub struct Vector {
    values: Vec<f32>,
    hash: blake3::Hash,
}

impl Vector {
    /// Takes the elements, `[d_model]`.
    pub fn new(values: Vec<f32>) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        Vector { values, hash }
    }

    /// The elements, `[d_model]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// blake3 of the elements as little-endian float32.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }
}

/// What is done to a vector x at a hook point.
#[derive(Clone, Debug)]
pub enum Edit {
    /// x + scale · vector.
    Add {
        /// The direction, usually of unit length.
        vector: Arc<Vector>,
        /// α, in units of the vector.
        scale: f64,
    },
    /// x − (x·v)v for a unit vector v: removes the component along v.
    Ablate(Arc<Vector>),
    /// The given vector instead of x.
    Replace(Arc<Vector>),
}

/// The positions an intervention acts on, counted from the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Positions {
    /// One position.
    At(usize),
    /// This position and all later ones, generated ones included.
    From(usize),
}

impl Positions {
    /// The first position that is edited.
    pub fn first(self) -> usize {
        match self {
            Positions::At(position) | Positions::From(position) => position,
        }
    }

    /// Whether the position is edited.
    pub fn contains(self, position: usize) -> bool {
        match self {
            Positions::At(at) => position == at,
            Positions::From(from) => position >= from,
        }
    }
}

/// An edit at a hook point and positions: a value handed to the evaluation, which leaves nothing behind in the model.
#[derive(Clone, Debug)]
pub struct Intervention {
    /// Where; must be editable ([`HookPoint::is_editable`]).
    pub hook: HookPoint,
    /// At which positions.
    pub positions: Positions,
    /// What is done there.
    pub edit: Edit,
}

/// In which dtype the logits of a score are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScoreDtype {
    /// Logits in float32, whatever the model's dtype.
    Float32,
    /// Everything in the model's own dtype, as the published study did in bfloat16.
    Model,
}

/// The two sets of first tokens whose logits make the refusal score.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenSets {
    /// Sorted unique token ids of the refusing openings.
    pub refuse: Vec<u32>,
    /// Sorted unique token ids of the complying openings.
    pub comply: Vec<u32>,
    /// The dtype of the logits.
    pub dtype: ScoreDtype,
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The most probable token.
    Greedy,
    /// Drawn from softmax(logits / temperature) with a generator seeded by (seed, prompt).
    Seeded {
        /// Temperature, above 0.
        temperature: f64,
        /// Seed.
        seed: u64,
    },
}

/// What is read off an evaluation.
#[derive(Clone, Debug)]
pub enum Readout {
    /// logsumexp(refuse logits) − logsumexp(comply logits) at the last position.
    Score(Arc<TokenSets>),
    /// Natural-log probabilities of the named tokens at the last position.
    LogProbabilities(Arc<Vec<u32>>),
    /// The vector at a hook point and position, as it flows on after the edits there.
    Activation {
        /// Where.
        hook: HookPoint,
        /// Position, counted from the first token.
        position: usize,
    },
    /// A continuation.
    Generation {
        /// Number of tokens at most.
        max_new_tokens: usize,
        /// How a token is chosen.
        sampling: Sampling,
        /// Whether a row ends at an end-of-text token (which is then its last).
        stop_at_end: bool,
    },
}

/// The unit of evaluation; see the module.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Fingerprint of the model ([`super::Model::fingerprint`]).
    pub model: blake3::Hash,
    /// The prompt's tokens.
    pub tokens: Arc<Tokens>,
    /// The edits, in the order in which they are applied at one hook point.
    pub interventions: Vec<Intervention>,
    /// What is read.
    pub readout: Readout,
}

impl Cell {
    /// A cell in canonical form: edits that cannot change the value are dropped, hook points that hold the same vector get one name,
    /// and `From` the last position that matters is `At` it (where the prompt is not continued). `n_layers` is the model's number of blocks.
    pub fn new(
        model: blake3::Hash,
        tokens: Arc<Tokens>,
        mut interventions: Vec<Intervention>,
        readout: Readout,
        n_layers: usize,
    ) -> Self {
        let mut last = tokens.len().saturating_sub(1);
        let continues = matches!(readout, Readout::Generation { .. });
        interventions.retain(|i| !matches!(i.edit, Edit::Add { scale, .. } if scale == 0.0));
        if let Readout::Activation { hook, position } = readout {
            // What comes later in the computation or in the text does not reach what is read.
            interventions.retain(|i| i.hook <= hook && i.positions.first() <= position);
            last = position;
        }
        // Stable, and before `resid_post` takes the name of the `resid_pre` that follows it.
        interventions.sort_by_key(|i| i.hook);
        for i in &mut interventions {
            i.hook = i.hook.canonical(n_layers);
            if !continues && i.positions == Positions::From(last) {
                i.positions = Positions::At(last);
            }
        }
        for place in interventions.chunk_by_mut(|a, b| a.hook == b.hook) {
            // Edits of single positions commute where the positions differ, and keep their order where not. A range overlaps others.
            if place
                .iter()
                .all(|i| matches!(i.positions, Positions::At(_)))
            {
                place.sort_by_key(|i| i.positions.first());
            }
        }
        if matches!(readout, Readout::Score(_) | Readout::LogProbabilities(_)) {
            drop_overwritten(&mut interventions, last);
        }
        let readout = match readout {
            Readout::Activation { hook, position } => Readout::Activation {
                hook: hook.canonical(n_layers),
                position,
            },
            other => other,
        };
        Cell {
            model,
            tokens,
            interventions,
            readout,
        }
    }

    /// The cell's key: blake3 over a canonical encoding of {[`EVALUATION_VERSION`], model, token ids, interventions with the
    /// content of their vectors, readout}.
    pub fn key(&self) -> blake3::Hash {
        let mut encoder = Encoder(blake3::Hasher::new_derive_key("dial cell key"));
        encoder.number(u64::from(EVALUATION_VERSION));
        encoder.hash(self.model);
        encoder.hash(self.tokens.hash());
        encoder.number(self.interventions.len() as u64);
        for intervention in &self.interventions {
            encoder.intervention(intervention);
        }
        encoder.readout(&self.readout);
        encoder.0.finalize()
    }
}

/// When every edit is at the last position, replacing the residual stream there makes all that was done below irrelevant to what is
/// read above. (So the published study's last-K residual curve is one number for every K.)
fn drop_overwritten(interventions: &mut Vec<Intervention>, last: usize) {
    if interventions
        .iter()
        .any(|i| i.positions != Positions::At(last))
    {
        return;
    }
    let replaces_stream =
        |i: &Intervention| matches!(i.edit, Edit::Replace(_)) && i.hook.is_stream();
    if let Some(index) = interventions.iter().rposition(replaces_stream) {
        interventions.drain(..index);
    }
}

/// Writes fields of fixed width, or with their length before them, so that no two cells share an encoding.
struct Encoder(blake3::Hasher);

impl Encoder {
    fn number(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    fn float(&mut self, value: f64) {
        self.number(value.to_bits());
    }

    fn hash(&mut self, hash: blake3::Hash) {
        self.0.update(hash.as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn ids(&mut self, ids: &[u32]) {
        self.number(ids.len() as u64);
        for id in ids {
            self.number(u64::from(*id));
        }
    }

    fn intervention(&mut self, intervention: &Intervention) {
        self.text(&intervention.hook.to_string());
        match intervention.positions {
            Positions::At(position) => {
                self.text("at");
                self.number(position as u64);
            }
            Positions::From(position) => {
                self.text("from");
                self.number(position as u64);
            }
        }
        match &intervention.edit {
            Edit::Add { vector, scale } => {
                self.text("add");
                self.hash(vector.hash());
                self.float(*scale);
            }
            Edit::Ablate(vector) => {
                self.text("ablate");
                self.hash(vector.hash());
            }
            Edit::Replace(vector) => {
                self.text("replace");
                self.hash(vector.hash());
            }
        }
    }

    fn readout(&mut self, readout: &Readout) {
        match readout {
            Readout::Score(sets) => {
                self.text("score");
                self.ids(&sets.refuse);
                self.ids(&sets.comply);
                self.text(match sets.dtype {
                    ScoreDtype::Float32 => "float32",
                    ScoreDtype::Model => "model",
                });
            }
            Readout::LogProbabilities(ids) => {
                self.text("log_probabilities");
                self.ids(ids);
            }
            Readout::Activation { hook, position } => {
                self.text("activation");
                self.text(&hook.to_string());
                self.number(*position as u64);
            }
            Readout::Generation {
                max_new_tokens,
                sampling,
                stop_at_end,
            } => {
                self.text("generation");
                self.number(*max_new_tokens as u64);
                match sampling {
                    Sampling::Greedy => self.text("greedy"),
                    Sampling::Seeded { temperature, seed } => {
                        self.text("seeded");
                        self.float(*temperature);
                        self.number(*seed);
                    }
                }
                self.number(u64::from(*stop_at_end));
            }
        }
    }
}

/// The value of a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A refusal score.
    Score(f64),
    /// Natural-log probabilities, in the order asked.
    LogProbabilities(Vec<f32>),
    /// A vector, `[width]`.
    Activation(Vec<f32>),
    /// Token ids of a continuation.
    Generation(Vec<u32>),
}

impl Value {
    /// The bytes kept in the cache: a tag, then little-endian numbers.
    pub fn to_bytes(&self) -> Vec<u8> {
        fn tagged<const N: usize>(tag: u8, items: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
            std::iter::once(tag).chain(items.flatten()).collect()
        }
        match self {
            Value::Score(score) => tagged(0, std::iter::once(score.to_le_bytes())),
            Value::LogProbabilities(values) => tagged(1, values.iter().map(|v| v.to_le_bytes())),
            Value::Activation(values) => tagged(2, values.iter().map(|v| v.to_le_bytes())),
            Value::Generation(ids) => tagged(3, ids.iter().map(|v| v.to_le_bytes())),
        }
    }

    /// Reads what [`Value::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn words<T>(bytes: &[u8], read: impl Fn([u8; 4]) -> T) -> Option<Vec<T>> {
            let chunks = bytes.chunks_exact(4);
            if !chunks.remainder().is_empty() {
                return None;
            }
            chunks.map(|c| Some(read(c.try_into().ok()?))).collect()
        }
        let (tag, rest) = bytes.split_first()?;
        Some(match tag {
            0 => Value::Score(f64::from_le_bytes(rest.try_into().ok()?)),
            1 => Value::LogProbabilities(words(rest, f32::from_le_bytes)?),
            2 => Value::Activation(words(rest, f32::from_le_bytes)?),
            3 => Value::Generation(words(rest, u32::from_le_bytes)?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::hooks::Site;
    use super::*;

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
                .map(|i| i.positions)
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
        for edit in [
            Edit::Ablate(Arc::new(Vector::new(vec![1.0, 0.0]))),
            Edit::Replace(Arc::new(Vector::new(vec![1.0, 0.0]))),
        ] {
            let mut changed = base.clone();
            changed.interventions[0].edit = edit;
            variants.push(changed);
        }
        let generation = |max_new_tokens, sampling, stop_at_end| Readout::Generation {
            max_new_tokens,
            sampling,
            stop_at_end,
        };
        let seeded = |temperature, seed| Sampling::Seeded { temperature, seed };
        for readout in [
            score(ScoreDtype::Model),
            Readout::LogProbabilities(Arc::new(vec![1])),
            Readout::LogProbabilities(Arc::new(vec![2])),
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
        ] {
            assert_eq!(Value::from_bytes(&value.to_bytes()), Some(value));
        }
        for bytes in [&[][..], &[0, 1], &[2, 1, 2, 3], &[9, 0, 0, 0, 0]] {
            assert_eq!(Value::from_bytes(bytes), None);
        }
    }
}

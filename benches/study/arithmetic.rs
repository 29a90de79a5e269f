//! How much arithmetic a study needs at least, counted from its cells.
//!
//! Counted are the products with the blocks' weight matrices, 2 · rows · in · out operations each, where a row is one position of one
//! prompt:
//!
//! - prefill of the distinct prompts: the positions that all of them begin with (the chat template's) once, the others once per prompt,
//!   through every block; of the last block only keys and values, but for the last position, which goes through all of it;
//! - each distinct cell: the positions from its first edit on, through what lies above that edit. For an edit of `resid_pre` that is its
//!   block and all after it; of `attn_out`, the block's MLP and all after it; of `mlp_out`, the blocks after it. An attention or an MLP
//!   above, whose output is itself replaced, is left out.
//!
//! Not counted, though it has to be done: attention to the keys and values (1 to 2 % at these lengths), the unembedding rows of the
//! score, norms, activation functions; nor padding, nor whatever is computed twice. So the share of the time that this arithmetic would
//! take at the speed of matrix products is a lower bound of how well the time was used. Where a readout is of the whole vocabulary
//! (`positions`), the unembedding is counted as well.

use std::collections::{HashMap, HashSet};
use std::ops::AddAssign;
use std::sync::Arc;

use refusal_dial::inside::cache::{Cache, Key};
use refusal_dial::inside::model::{
    Cell, Cells, Edit, HookPoint, Intervention, ModelConfig, Site, Tokens, Value,
};
use refusal_dial::inside::stages::{Evaluate, StageError};

/// The weight matrices of a block, with those of equal input joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// Queries, keys and values.
    QueryKeyValue,
    /// Keys and values alone.
    KeyValue,
    /// The output of attention.
    Output,
    /// Both inputs of the MLP.
    GateUp,
    /// The output of the MLP.
    Down,
    /// From the final norm to the logits of the whole vocabulary.
    Unembedding,
}

impl Matrix {
    /// All of them.
    pub const ALL: [Matrix; 6] = [
        Matrix::QueryKeyValue,
        Matrix::KeyValue,
        Matrix::Output,
        Matrix::GateUp,
        Matrix::Down,
        Matrix::Unembedding,
    ];

    /// A name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Matrix::QueryKeyValue => "qkv",
            Matrix::KeyValue => "kv",
            Matrix::Output => "o",
            Matrix::GateUp => "gate_up",
            Matrix::Down => "down",
            Matrix::Unembedding => "unembedding",
        }
    }

    /// Number of elements of an input row and of an output row.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let queries = config.n_heads * config.d_head;
        let keys_values = 2 * config.n_kv_heads * config.d_head;
        match self {
            Matrix::QueryKeyValue => (config.d_model, queries + keys_values),
            Matrix::KeyValue => (config.d_model, keys_values),
            Matrix::Output => (queries, config.d_model),
            Matrix::GateUp => (config.d_model, 2 * config.d_mlp),
            Matrix::Down => (config.d_mlp, config.d_model),
            Matrix::Unembedding => (config.d_model, config.d_vocab),
        }
    }

    /// Floating-point operations of one row.
    pub fn operations_per_row(self, config: &ModelConfig) -> f64 {
        let (input, output) = self.shape(config);
        2.0 * input as f64 * output as f64
    }
}

/// Rows that go through each matrix, in the order of [`Matrix::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rows(pub [f64; 6]);

impl AddAssign for Rows {
    fn add_assign(&mut self, other: Rows) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }
}

impl Rows {
    /// That many rows through a whole block.
    pub fn of_blocks(rows: f64) -> Self {
        Rows([rows, 0.0, rows, rows, rows, 0.0])
    }

    fn of_keys_and_values(rows: f64) -> Self {
        Rows([0.0, rows, 0.0, 0.0, 0.0, 0.0])
    }

    /// Rows whose logits are read.
    pub fn of_unembedding(rows: f64) -> Self {
        Rows([0.0, 0.0, 0.0, 0.0, 0.0, rows])
    }

    /// That many times as many.
    pub fn scaled(self, factor: f64) -> Self {
        Rows(self.0.map(|rows| rows * factor))
    }

    /// Floating-point operations.
    pub fn operations(&self, config: &ModelConfig) -> f64 {
        let each = Matrix::ALL.iter().zip(self.0);
        each.map(|(matrix, rows)| rows * matrix.operations_per_row(config))
            .sum()
    }

    /// Seconds at the given operations per second of each matrix.
    pub fn seconds(&self, config: &ModelConfig, rate: impl Fn(Matrix) -> f64) -> f64 {
        let each = Matrix::ALL.iter().zip(self.0);
        each.map(|(matrix, rows)| rows * matrix.operations_per_row(config) / rate(*matrix))
            .sum()
    }
}

/// What a prefill of one prompt needs beyond the `shared` positions that were computed before.
pub fn prefill_of(tokens: usize, shared: usize, n_layers: usize) -> Rows {
    last_blocks_of(tokens - shared, 1, n_layers)
}

/// What so many positions need in the last `n_layers` blocks, where only the last `read` of them are read.
pub fn last_blocks_of(positions: usize, read: usize, n_layers: usize) -> Rows {
    let mut rows = Rows::of_blocks((positions * (n_layers - 1)) as f64);
    rows += Rows::of_keys_and_values((positions - read) as f64);
    rows += Rows::of_blocks(read as f64);
    rows
}

/// What the positions that all prompts share need, once.
pub fn prefill_of_shared(shared: usize, n_layers: usize) -> Rows {
    let mut rows = Rows::of_blocks((shared * (n_layers - 1)) as f64);
    rows += Rows::of_keys_and_values(shared as f64);
    rows
}

/// What a cell needs when its prompt was prefilled.
pub fn cell_of(cell: &Cell, n_layers: usize) -> Rows {
    let first_hook = cell.interventions.iter().map(|i| i.hook).min();
    let first_position = cell.interventions.iter().map(|i| i.positions.first()).min();
    let (Some(hook), Some(position)) = (first_hook, first_position) else {
        return Rows::default();
    };
    let suffix = (cell.tokens.len() - position) as f64;
    let HookPoint::Block { layer, site } = hook else {
        let blocks = if hook == HookPoint::Embed {
            n_layers
        } else {
            0
        };
        return Rows::of_blocks(suffix * blocks as f64);
    };
    let above = suffix * (n_layers - layer - 1) as f64;
    let mut rows = Rows::of_blocks(above);
    rows += match site {
        Site::ResidPre => Rows::of_blocks(suffix),
        Site::AttnZ => Rows([0.0, 0.0, suffix, suffix, suffix, 0.0]),
        Site::AttnOut | Site::ResidMid => Rows([0.0, 0.0, 0.0, suffix, suffix, 0.0]),
        Site::MlpPost => Rows([0.0, 0.0, 0.0, 0.0, suffix, 0.0]),
        Site::MlpOut | Site::ResidPost => Rows::default(),
    };
    let later = cell.interventions.iter().filter(|i| i.hook > hook);
    later.for_each(|i| rows += replaced(i).scaled(-suffix));
    rows
}

/// What an edit makes needless at its position: the work whose outcome it replaces.
fn replaced(edit: &Intervention) -> Rows {
    match (edit.hook, &edit.edit) {
        (HookPoint::Block { site, .. }, Edit::Replace(_)) => match site {
            Site::AttnOut => Rows([1.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
            Site::MlpOut => Rows([0.0, 0.0, 0.0, 1.0, 1.0, 0.0]),
            _ => Rows::default(),
        },
        _ => Rows::default(),
    }
}

/// Number of tokens with which all prompts begin, short of the whole of any.
pub fn shared_tokens<'a>(mut prompts: impl Iterator<Item = &'a Arc<Tokens>>) -> usize {
    let Some(first) = prompts.next() else {
        return 0;
    };
    prompts.fold(first.len().saturating_sub(1), |shared, other| {
        let pairs = first.ids()[..shared]
            .iter()
            .zip(&other.ids()[..other.len() - 1]);
        pairs.take_while(|(a, b)| a == b).count()
    })
}

/// Answers cells from a cache, and counts each distinct one.
pub struct Counter<'a> {
    cache: &'a Cache,
    seen: HashSet<Key>,
    /// The distinct prompts, by the hash of their ids.
    pub prompts: HashMap<blake3::Hash, Arc<Tokens>>,
    /// Those that were first met since [`Counter::next`].
    pub new_prompts: Vec<Arc<Tokens>>,
    /// The cells that were first met since [`Counter::next`].
    pub new_cells: Vec<Cell>,
}

impl<'a> Counter<'a> {
    /// For a cache in which all the cells are.
    pub fn new(cache: &'a Cache) -> Self {
        Counter {
            cache,
            seen: HashSet::new(),
            prompts: HashMap::new(),
            new_prompts: Vec::new(),
            new_cells: Vec::new(),
        }
    }

    /// Forgets what was new: the next stage begins.
    pub fn next(&mut self) {
        self.new_prompts.clear();
        self.new_cells.clear();
    }

    fn value(&self, key: &Key) -> Result<Value, StageError> {
        let bytes = self.cache.cells().get(key);
        let bytes = bytes.map_err(|error| StageError::Cache(error.to_string()))?;
        bytes
            .and_then(|bytes| Value::from_bytes(&bytes))
            .ok_or(StageError::Missing(1))
    }
}

impl Evaluate for Counter<'_> {
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError> {
        for number in 0..cells.count() {
            let cell = cells.cell(number);
            let key = Key::from(cell.key());
            take(number, self.value(&key)?);
            if !self.seen.insert(key) {
                continue;
            }
            let hash = cell.tokens.hash();
            if self
                .prompts
                .insert(hash, Arc::clone(&cell.tokens))
                .is_none()
            {
                self.new_prompts.push(Arc::clone(&cell.tokens));
            }
            self.new_cells.push(cell);
        }
        Ok(())
    }
}

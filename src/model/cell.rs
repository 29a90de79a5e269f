//! The cell: the unit that is keyed, cached and resumed.
//!
//! A cell is *(model, token ids, interventions, readout)*. Ids, splits, categories and thresholds are no part of it: they join when
//! a stage assembles its table. Two cells that must give the same value have one key: an added vector with scale 0 is no
//! intervention, and `resid_post` of block l is `resid_pre` of block l + 1.

mod edit;
mod key;
mod positions;
#[cfg(test)]
mod tests;
mod tokens;
mod value;

use std::sync::Arc;

use super::hooks::HookPoint;

pub use edit::Edit;
pub(super) use edit::Operation;
pub(crate) use key::EVALUATION_VERSION;
pub use positions::Positions;
pub use tokens::{Tokens, Vector};
pub use value::Value;

/// An edit at a hook point and positions: a value handed to the evaluation, which leaves nothing behind in the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervention {
    /// Where; must be editable ([`HookPoint::is_editable`]).
    pub hook: HookPoint,
    pub positions: Positions,
    pub edit: Edit,
}

/// In which dtype the logits of a score are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ScoreDtype {
    /// Logits in float32, whatever the model's dtype.
    Float32,
    /// Everything in the model's own dtype, as the published study did in bfloat16.
    Model,
}

/// The two sets of first tokens whose logits make the refusal score.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenSets {
    /// Sorted unique token ids.
    pub(crate) refuse: Vec<u32>,
    /// Sorted unique token ids.
    pub(crate) comply: Vec<u32>,
    pub(crate) dtype: ScoreDtype,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    Greedy,
    /// Drawn from softmax(logits / temperature), temperature above 0, with a generator seeded by (seed, prompt).
    Seeded {
        temperature: f64,
        seed: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Readout {
    /// logsumexp(refuse logits) − logsumexp(comply logits) at the last position.
    Score(Arc<TokenSets>),
    /// Natural-log probabilities of the named tokens at the last position.
    LogProbabilities(Arc<Vec<u32>>),
    /// ln(P + 1e-8) − ln(1 − P + 1e-8) at the last position, where P is the probability of the named tokens (ascending, each once), in float64:
    /// the refusal score of refusal_direction (Arditi et al., arXiv:2406.11717).
    LogOdds(Arc<[u32]>),
    /// Σᵥ P (ln P − ln Q) over the whole vocabulary at the last position, in float64 and nats, P of the unedited and Q of the edited prompt, and
    /// whether both prefer the same token. With ε > 0 it is inside the logarithms: Σᵥ P (ln(P + ε) − ln(Q + ε)), as refusal_direction has it.
    Divergence { epsilon: f64 },
    /// The natural-log probability of these tokens behind the prompt, Σᵢ ln p(tᵢ | prompt, t₀ … tᵢ₋₁), in float64. At least one; positions behind
    /// the prompt are theirs.
    Continuation(Arc<[u32]>),
    /// The vector at a hook point and position, as it flows on after the edits there.
    Activation {
        hook: HookPoint,
        /// Counted from the first token.
        position: usize,
    },
    /// The mean over all tokens of the prompt of the vectors at a hook point, summed in float64.
    Mean { hook: HookPoint },
    Generation {
        max_new_tokens: usize,
        sampling: Sampling,
        /// Whether a row ends at an end-of-text token (which is then its last).
        stop_at_end: bool,
        /// Tokens that end a row beside those of the model's configuration, ascending; none where it ends at none.
        further_ends: Arc<[u32]>,
    },
}

impl Readout {
    /// Whether it is read of the logits at the last position of the prompt.
    pub(super) fn is_of_last_position(&self) -> bool {
        match self {
            Readout::Score(_)
            | Readout::LogProbabilities(_)
            | Readout::LogOdds(_)
            | Readout::Divergence { .. } => true,
            Readout::Continuation(_)
            | Readout::Activation { .. }
            | Readout::Mean { .. }
            | Readout::Generation { .. } => false,
        }
    }

    /// Whether it is made of the unedited prompt's logits, too.
    pub(super) fn is_against_unedited(&self) -> bool {
        matches!(self, Readout::Divergence { .. })
    }

    /// Where the vectors are that it is made of; none of what is read of logits.
    pub(crate) fn hook(&self) -> Option<HookPoint> {
        match self {
            Readout::Activation { hook, .. } | Readout::Mean { hook } => Some(*hook),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Cell {
    /// Fingerprint of the model ([`super::ModelHandle::fingerprint`]).
    pub model: blake3::Hash,
    pub tokens: Arc<Tokens>,
    /// The edits, in the order in which they are applied at one hook point.
    pub interventions: Vec<Intervention>,
    pub readout: Readout,
}

/// Cells by number, made when they are asked for: a sweep has more of them than should lie in memory at once.
pub trait Cells: Sync {
    fn count(&self) -> usize;

    /// The cell of a number below [`Cells::count`]; the same every time.
    fn cell(&self, number: usize) -> Cell;
}

impl Cells for &[Cell] {
    fn count(&self) -> usize {
        self.len()
    }

    fn cell(&self, number: usize) -> Cell {
        self[number].clone()
    }
}

impl Cell {
    /// Whether it is edited, and each of its edits acts at every token of a text that is given. Such texts are computed in a way of their own.
    pub(super) fn is_edited_throughout(&self) -> bool {
        let given = !matches!(
            self.readout,
            Readout::Generation { .. } | Readout::Mean { .. }
        );
        let throughout = |i: &Intervention| i.positions == Positions::From(0);
        given && !self.interventions.is_empty() && self.interventions.iter().all(throughout)
    }

    /// Whether an edit puts another vector in the place of what is at the hook point.
    pub(crate) fn replaces(&self, hook: HookPoint) -> bool {
        let replaces = |i: &Intervention| i.hook == hook && matches!(i.edit, Edit::Replace(_));
        self.interventions.iter().any(replaces)
    }

    /// A cell in canonical form: edits that cannot change the value are dropped, hook points that hold the same vector get one name,
    /// and `From` the last position that matters is `At` it (where the prompt is not continued). `n_layers` is the model's number of blocks.
    pub fn new(
        model: blake3::Hash,
        tokens: Arc<Tokens>,
        mut interventions: Vec<Intervention>,
        mut readout: Readout,
        n_layers: usize,
    ) -> Self {
        let mut last = tokens.len().saturating_sub(1);
        let continues = matches!(readout, Readout::Generation { .. });
        interventions.retain(|i| !matches!(i.edit, Edit::Add { scale, .. } if scale == 0.0));
        match &readout {
            // What comes later in the computation does not reach what is read.
            Readout::Activation { hook, position } => {
                interventions.retain(|i| i.hook <= *hook);
                last = *position;
            }
            Readout::Mean { hook } => interventions.retain(|i| i.hook <= *hook),
            // Its last token is only read.
            Readout::Continuation(ids) => last += ids.len().saturating_sub(1),
            _ => {}
        }
        // Stable, and before `resid_post` takes the name of the `resid_pre` that follows it.
        interventions.sort_by_key(|i| i.hook);
        // Nor does what comes later in the text.
        interventions.retain_mut(|i| {
            i.hook = i.hook.canonical(n_layers);
            let left = match continues {
                true => Some(i.positions.clone()),
                false => i.positions.up_to(last),
            };
            left.map(|left| i.positions = left).is_some()
        });
        for place in interventions.chunk_by_mut(|a, b| a.hook == b.hook) {
            // Edits of single positions commute where the positions differ, and keep their order where not. A range overlaps others.
            let single = |i: &Intervention| matches!(i.positions, Positions::At(_));
            if place.iter().all(single) {
                place.sort_by_key(|i| i.positions.first());
            }
        }
        if readout.is_of_last_position() {
            drop_overwritten(&mut interventions, last);
        }
        if let Readout::Activation { hook, .. } | Readout::Mean { hook } = &mut readout {
            *hook = hook.canonical(n_layers);
        }
        Cell {
            model,
            tokens,
            interventions,
            readout,
        }
    }
}

/// When every edit is at the last position, replacing the residual stream there makes all that was done below irrelevant to what is
/// read above. (So the published study's last-K residual curve is one number for every K.)
fn drop_overwritten(interventions: &mut Vec<Intervention>, last: usize) {
    let elsewhere = |i: &Intervention| i.positions != Positions::At(last);
    if interventions.iter().any(elsewhere) {
        return;
    }
    let replaces_stream =
        |i: &Intervention| matches!(i.edit, Edit::Replace(_)) && i.hook.is_stream();
    if let Some(index) = interventions.iter().rposition(replaces_stream) {
        interventions.drain(..index);
    }
}

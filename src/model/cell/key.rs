//! The key of a cell: a canonical encoding of all that its value depends on, hashed.

use super::{Cell, Edit, Intervention, Positions, Readout, Sampling, ScoreDtype};

/// Version of the arithmetic behind [`Readout`]s. Raise it when a change may alter any value.
pub(crate) const EVALUATION_VERSION: u32 = 4;

impl Cell {
    /// The cell's key: blake3 over a canonical encoding of {[`EVALUATION_VERSION`], model, token ids, interventions with the
    /// content of their vectors, readout}.
    pub fn key(&self) -> blake3::Hash {
        let mut encoder = Encoder(blake3::Hasher::new_derive_key("dial cell key"));
        encoder.number(u64::from(EVALUATION_VERSION));
        encoder.hash(self.model);
        encoder.hash(self.tokens.hash());
        if self.positions_computed() > 1 {
            encoder.text(match self.readout {
                _ if self.is_edited_throughout() => "template and own tokens apart",
                Readout::Generation { .. } => "text from the stream of its layer",
                _ => "from the stream of its layer",
            });
        }
        encoder.number(self.interventions.len() as u64);
        for intervention in &self.interventions {
            encoder.intervention(intervention);
        }
        encoder.readout(&self.readout);
        encoder.0.finalize()
    }
}

impl Cell {
    /// How many positions are computed, up to the last of the text: more than one where an edit or a read is at an earlier one.
    fn positions_computed(&self) -> usize {
        let end = self.tokens.len().saturating_sub(1);
        let (last, read) = match &self.readout {
            Readout::Activation { position, .. } => (end, *position),
            Readout::Mean { .. } => (end, 0),
            Readout::Continuation(ids) => (end + ids.len().saturating_sub(1), end),
            _ => (end, end),
        };
        let edited = self.interventions.iter().map(|i| i.positions.first());
        last + 1 - edited.chain([read]).min().unwrap_or(last).min(last)
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
        self.positions(&intervention.positions);
        let edit = &intervention.edit;
        self.text(match edit {
            Edit::Add { .. } => "add",
            Edit::Ablate(_) => "ablate",
            Edit::Replace(_) => "replace",
            Edit::AblateSpan(_) => "ablate span",
            Edit::SetLevel { .. } => "set level",
            Edit::Rotate { .. } => "rotate",
        });
        if let Edit::AblateSpan(vectors) = edit {
            self.number(vectors.len() as u64);
        }
        for vector in edit.vectors() {
            self.hash(vector.hash());
        }
        if let Some(number) = edit.number() {
            self.float(number);
        }
    }

    fn positions(&mut self, positions: &Positions) {
        match positions {
            Positions::At(position) => {
                self.text("at");
                self.number(*position as u64);
            }
            Positions::From(position) => {
                self.text("from");
                self.number(*position as u64);
            }
            Positions::Ranges(ranges) => {
                self.text("ranges");
                self.number(ranges.len() as u64);
                for (start, end) in ranges.iter() {
                    self.number(*start as u64);
                    self.number(*end as u64);
                }
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
            Readout::LogOdds(ids) => {
                self.text("log odds");
                self.ids(ids);
            }
            Readout::Divergence { epsilon } => {
                self.text("divergence");
                self.float(*epsilon);
            }
            Readout::Continuation(ids) => {
                self.text("continuation");
                self.ids(ids);
            }
            Readout::Activation { hook, position } => {
                self.text("activation");
                self.text(&hook.to_string());
                self.number(*position as u64);
            }
            Readout::Mean { hook } => {
                self.text("mean");
                self.text(&hook.to_string());
            }
            Readout::Generation {
                max_new_tokens,
                sampling,
                stop_at_end,
                further_ends,
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
                // The last part of an encoding: where there are none, keys are what they were before there could be any.
                if !further_ends.is_empty() {
                    self.ids(further_ends);
                }
            }
        }
    }
}

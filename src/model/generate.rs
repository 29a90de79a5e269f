//! Continuations: prompt by prompt of a tile, token by token, with a cache of their own behind the prompt's prefix.
//!
//! Edits act at the positions their cell names, the last prompt token and the generated ones alike; the keys and values of an edited
//! position stay as the edit made them. Of the layers below the first edit, those of the whole prompt are the prefill's. Where a text grows long on the way, and is turned otherwise from its first position on, its row stops
//! there, to go on behind a prefix that is computed anew.

use std::sync::Arc;

use tch::Tensor;

use super::cell::{Cell, Readout, Sampling};
use super::error::Result;
use super::evaluate::{Start, Tile, to_rows};
use super::hooks::HookPoint;
use super::prefix::{Cached, Masks, SeenFrom};
use super::transformer::{ByWindow, Earlier, KeysValues, Segment, Tap};

/// Continues the rows of the tile, whose work starts there, each until nothing is left to do for it in this tile; `max_new_tokens` is the most
/// that any may have.
pub(super) fn continued(
    tile: &Tile<'_>,
    start: &Start,
    rows: Vec<Row>,
    max_new_tokens: usize,
) -> Result<Vec<Row>> {
    let mut continuation = Continuation::new(tile, start, rows, max_new_tokens)?;
    let prefix = continuation.prefix()?;
    let mut x = continuation.read_suffix(start)?;
    for step in 0.. {
        continuation.choose(&x)?;
        if continuation.rows.iter().all(|row| row.stopped.is_some()) {
            break;
        }
        x = continuation.read_chosen(&prefix, step)?;
    }
    Ok(continuation.rows)
}

/// A tile's n rows on the way.
struct Continuation<'t> {
    tile: &'t Tile<'t>,
    rows: Vec<Row>,
    /// The first layer in which the suffix is computed. Below it, its keys and values are those that the prefill left.
    first_layer: usize,
    /// Keys and values of what was generated, from the first layer on with those of the suffix before them: per layer
    /// `[n, kv, capacity, dh]`, filled from the front.
    cached: Vec<KeysValues>,
    /// Number of generated tokens in it.
    generated: usize,
}

impl<'t> Continuation<'t> {
    fn new(
        tile: &'t Tile<'t>,
        start: &Start,
        mut rows: Vec<Row>,
        max_new_tokens: usize,
    ) -> Result<Self> {
        // The tile is padded with copies of its first cell.
        if let Some(first) = rows.first().cloned() {
            rows.resize(tile.cells.len(), first);
        }
        let mut continuation = Continuation {
            tile,
            rows,
            first_layer: start.first_layer(),
            cached: Vec::new(),
            generated: 0,
        };
        let config = &tile.transformer.config;
        let (n, kv) = (tile.cells.len() as i64, config.n_kv_heads as i64);
        let options = (tile.transformer.kind, tile.transformer.device);
        let zeros = |layer| {
            let capacity = (continuation.of_suffix(layer) + max_new_tokens) as i64;
            KeysValues::zeros([n, kv, capacity, config.d_head as i64], options)
        };
        let cached: Result<_> = (0..config.n_layers).map(zeros).collect();
        continuation.cached = cached?;
        Ok(continuation)
    }

    /// How many positions of the suffix are in what is kept of a layer here.
    fn of_suffix(&self, layer: usize) -> usize {
        match layer < self.first_layer {
            true => 0,
            false => self.tile.suffix,
        }
    }

    /// What the prefill left of each layer; none where nothing of it is seen.
    fn prefix(&self) -> Result<Vec<Option<Cached<'t>>>> {
        let layers = 0..self.tile.transformer.config.n_layers;
        let seen = |layer: &usize| *layer < self.first_layer || !self.tile.is_whole;
        let cached = layers.map(|layer| {
            let seen = Some(layer).filter(seen);
            seen.map(|layer| self.tile.rows.cached(layer)).transpose()
        });
        cached.collect()
    }

    /// Runs the prompts' suffixes through the blocks, from where their work starts: `[n, suffix, d_model]`.
    fn read_suffix(&self, start: &Start) -> Result<Tensor> {
        let tile = self.tile;
        let mut tap = tile.tap(0)?;
        let n_layers = tile.transformer.config.n_layers;
        let mut keep = |layer: usize, own: KeysValues| self.write(layer, 0, &own);
        tile.run_keeping(start, n_layers, &mut tap, &mut keep)
    }

    /// Writes the keys and values `[n, kv, S, dh]` of one layer behind the first so many positions.
    fn write(&self, layer: usize, behind: usize, own: &KeysValues) -> Result<()> {
        let count = own.keys.size()[2];
        let place = self.cached[layer].map(|of| Ok(of.f_narrow(2, behind as i64, count)?))?;
        place.write(own)
    }

    /// Chooses each row's next token, given the stream that leaves the last block, `[n, S, d_model]`. Rows that have stopped stay as they are.
    fn choose(&mut self, x: &Tensor) -> Result<()> {
        let transformer = self.tile.transformer;
        let last = x.f_narrow(1, x.size()[1] - 1, 1)?;
        let hidden = self.tile.final_norm(&last, &mut Tap::default())?;
        let logits = transformer.unembed(&hidden)?;
        let (highest, greedy) = logits.f_max_dim(-1, false)?;
        let greedy = Vec::<i64>::try_from(greedy)?;
        // A NaN among the logits is their maximum.
        let is_finite = Vec::<bool>::try_from(highest.f_isfinite()?)?;
        let sampled = self.rows.iter().any(|row| row.sampling != Sampling::Greedy);
        let all = match sampled {
            true => to_rows(&logits)?,
            false => Vec::new(),
        };
        let rows = self.rows.iter_mut().enumerate();
        for (index, row) in rows.filter(|(_, row)| row.stopped.is_none()) {
            if !is_finite[index] {
                row.stopped = Some(Stopped::NotFinite);
                continue;
            }
            let id = match row.sampling {
                Sampling::Greedy => greedy[index] as u32,
                Sampling::Seeded { temperature, .. } => row.draw(&all[index], temperature),
            };
            row.push(id, &transformer.config.end_of_text);
        }
        Ok(())
    }

    /// Runs the tokens chosen last, the generated ones of index `step`, behind the cached `prefix` (per layer; none where nothing of it is seen)
    /// through all blocks: `[n, 1, d_model]`.
    fn read_chosen(&mut self, prefix: &[Option<Cached<'_>>], step: usize) -> Result<Tensor> {
        let tile = self.tile;
        let transformer = tile.transformer;
        let ids = self
            .rows
            .iter()
            .map(|row| row.ids.last().copied().unwrap_or(0));
        let ids = transformer.index(ids.map(i64::from))?.f_unsqueeze(1)?;
        let positions = tile
            .cells
            .iter()
            .map(|cell| (cell.tokens.len() + step) as i64);
        let positions = transformer.index(positions)?.f_unsqueeze(1)?;
        let rotaries = tile.rows.rotaries(&positions)?;
        let mut tap = tile.tap(tile.suffix + step)?;
        let x = tap.pass(HookPoint::Embed, transformer.embed(&ids)?)?;
        let mut x = transformer.placed(x, &positions)?;
        let below = self.seen(0, step)?;
        let above = self.seen(tile.suffix, step)?;
        for (layer, prefix) in prefix.iter().enumerate() {
            let of_suffix = self.of_suffix(layer);
            let seen = if of_suffix == 0 { &below } else { &above };
            let filled = (of_suffix + self.generated) as i64;
            let own = self.cached[layer].map(|of| Ok(of.f_narrow(2, 0, filled)?))?;
            let mut earlier = match prefix {
                Some(cached) => cached.earlier(&seen.prefix)?,
                None => Earlier::none(),
            };
            if filled > 0 {
                earlier.segments.push(Segment {
                    cached: &own,
                    mask: transformer.at_layer(&seen.filled, layer)?.as_ref(),
                });
            }
            let (next, own) = transformer.block(layer, &x, &rotaries, &earlier, None, &mut tap)?;
            if let Some(own) = own {
                self.write(layer, filled as usize, &own)?;
            }
            x = next;
        }
        self.generated += 1;
        Ok(x)
    }

    /// What the generated token of index `step` sees in layers where so many positions of the suffix are kept here.
    fn seen(&self, of_suffix: usize, step: usize) -> Result<Seen> {
        Ok(Seen {
            prefix: self.tile.rows.masks(of_suffix, SeenFrom::Generated(step))?,
            filled: self.filled_masks(of_suffix + self.generated)?,
        })
    }

    /// What of the last so many positions is seen from the next one, `[1, 1, 1, count]`; none where it is all.
    fn filled_masks(&self, count: usize) -> Result<ByWindow<Option<Tensor>>> {
        let transformer = self.tile.transformer;
        transformer.by_window(count + 1, |window| {
            let Some(window) = window else {
                return Ok(None);
            };
            let options = (transformer.kind, transformer.device);
            let mask = Tensor::f_zeros([1, 1, 1, count as i64], options)?;
            let hidden = (count + 1 - window) as i64;
            let _ = mask.f_narrow(3, 0, hidden)?.f_fill_(f64::NEG_INFINITY)?;
            Ok(Some(mask))
        })
    }
}

/// What is seen of earlier positions.
struct Seen {
    /// Of those that the prefill left.
    prefix: Masks,
    /// Of those that are kept here, by window; none where it is all.
    filled: ByWindow<Option<Tensor>>,
}

/// One row's continuation so far.
#[derive(Clone)]
pub(super) struct Row {
    /// The tokens chosen.
    pub(super) ids: Vec<u32>,
    /// None while it goes on.
    pub(super) stopped: Option<Stopped>,
    max_new_tokens: usize,
    /// So many tokens make the text a long one; none where it is from the start, or never is.
    growing: Option<usize>,
    stop_at_end: bool,
    further_ends: Arc<[u32]>,
    sampling: Sampling,
    generator: SplitMix64,
}

/// Why a row does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It has its last token.
    AtEnd,
    /// The text has grown long, and is not read in this tile.
    Grown,
    /// Its logits are no numbers.
    NotFinite,
}

impl Row {
    /// Before the first token. Texts of more than `border` tokens are long ones.
    pub(super) fn new(cell: &Cell, border: Option<usize>) -> Self {
        let (max_new_tokens, sampling, stop_at_end, further_ends) = match &cell.readout {
            Readout::Generation {
                max_new_tokens,
                sampling,
                stop_at_end,
                further_ends,
            } => (
                *max_new_tokens,
                *sampling,
                *stop_at_end,
                Arc::clone(further_ends),
            ),
            _ => (0, Sampling::Greedy, true, Arc::default()),
        };
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::Seeded { seed, .. } => seed,
        };
        // A prompt's draws depend on the seed and its tokens, not on its row.
        let mut hasher = blake3::Hasher::new_derive_key("dial sampling");
        hasher
            .update(&seed.to_le_bytes())
            .update(cell.tokens.hash().as_bytes());
        let mut state = [0u8; 8];
        hasher.finalize_xof().fill(&mut state);
        Row {
            ids: Vec::new(),
            stopped: (max_new_tokens == 0).then_some(Stopped::AtEnd),
            max_new_tokens,
            growing: border.and_then(|border| (border + 1).checked_sub(cell.tokens.len())),
            stop_at_end,
            further_ends,
            sampling,
            generator: SplitMix64(u64::from_le_bytes(state)),
        }
    }

    /// The same on its way again.
    pub(super) fn resumed(&self) -> Self {
        Row {
            stopped: None,
            ..self.clone()
        }
    }

    /// The next token, drawn.
    pub(super) fn draw(&mut self, logits: &[f32], temperature: f64) -> u32 {
        draw(logits, temperature, self.generator.next_unit())
    }

    /// Appends a token; those of `end_of_text` end any text.
    fn push(&mut self, id: u32, end_of_text: &[u32]) {
        self.ids.push(id);
        let is_end = end_of_text.contains(&id) || self.further_ends.contains(&id);
        let count = self.ids.len();
        self.stopped = match self.stop_at_end && is_end || count == self.max_new_tokens {
            true => Some(Stopped::AtEnd),
            false => (self.growing == Some(count)).then_some(Stopped::Grown),
        };
    }
}

/// The token at which the cumulative softmax(logits / temperature), in float64, passes `unit` in [0, 1).
fn draw(logits: &[f32], temperature: f64, unit: f64) -> u32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| (f64::from(logit - highest) / temperature).exp();
    let total: f64 = logits.iter().map(weight).sum();
    let mut rest = unit * total;
    for (id, logit) in logits.iter().enumerate() {
        rest -= weight(logit);
        if rest < 0.0 {
            return id as u32;
        }
    }
    logits.len().saturating_sub(1) as u32
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and the same on every platform.
#[derive(Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next_unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_follows_the_cumulative_distribution() {
        // softmax of ln(1), ln(3) is (0.25, 0.75)
        let logits = [0.0, 3f32.ln()];
        assert_eq!(draw(&logits, 1.0, 0.2), 0);
        assert_eq!(draw(&logits, 1.0, 0.3), 1);
        assert_eq!(draw(&logits, 1.0, 0.999), 1);
        // at temperature 1/2 the ratio is squared: (0.1, 0.9)
        assert_eq!(draw(&logits, 0.5, 0.2), 1);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // First output of SplitMix64 from state 1234567 is 6457827717110365317.
        let unit = SplitMix64(1_234_567).next_unit();
        assert_eq!(
            (unit * (1u64 << 53) as f64) as u64,
            6_457_827_717_110_365_317 >> 11
        );
    }
}

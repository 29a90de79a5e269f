//! Continuations: prompt by prompt of a tile, token by token, with a cache of their own behind the prompt's prefix.
//!
//! Edits act at the positions their cell names, the last prompt token and the generated ones alike; the keys and values of an edited
//! position stay as the edit made them.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::cell::{Readout, Sampling, Value};
use super::error::Result;
use super::evaluate::{Tile, to_rows};
use super::prefix::Cached;
use super::transformer::{Segment, Tap};

/// Keys and values of the suffix and of what was generated, of a tile's n rows: per layer `[n, kv, capacity, dh]`, filled from the front.
struct Grown {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    length: i64,
}

impl Grown {
    fn new(tile: &Tile<'_>, capacity: usize) -> Result<Self> {
        let transformer = tile.transformer;
        let config = transformer.config();
        let size = [
            tile.cells.len() as i64,
            config.n_kv_heads as i64,
            capacity as i64,
            config.d_head as i64,
        ];
        let options = (transformer.kind(), transformer.device());
        let make = || -> Result<Vec<Tensor>> {
            (0..config.n_layers)
                .map(|_| Ok(Tensor::f_zeros(size, options)?))
                .collect()
        };
        Ok(Grown {
            keys: make()?,
            values: make()?,
            length: 0,
        })
    }

    /// Appends the keys and values `[n, kv, S, dh]` of one layer; the length grows when all layers are in.
    fn write(&self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let count = keys.size()[2];
        for (into, from) in [(&self.keys[layer], keys), (&self.values[layer], values)] {
            into.f_narrow(2, self.length, count)?.f_copy_(from)?;
        }
        Ok(())
    }
}

/// Continues every row of the tile by up to `max_new_tokens` tokens. None for a row whose logits are no numbers.
pub(super) fn continuations(tile: &Tile<'_>, max_new_tokens: usize) -> Result<Vec<Option<Value>>> {
    let transformer = tile.transformer;
    let mut grown = Grown::new(tile, tile.suffix + max_new_tokens)?;
    let mut rows: Vec<Row> = tile.cells.iter().map(|cell| Row::new(cell)).collect();
    let mut tap = tile.tap(0)?;
    let x = transformer.embed(&tile.suffix_ids()?)?;
    let mut x = tile.run_blocks(0, x, &mut tap, &mut |layer, keys, values| {
        grown.write(layer, &keys, &values)
    })?;
    grown.length = tile.suffix as i64;
    let context = tile.context()?;
    let prefix = (0..transformer.config().n_layers)
        .map(|layer| context.layer(layer))
        .collect::<Result<Vec<_>>>()?;
    for step in 0..max_new_tokens {
        let last = x.f_narrow(1, x.size()[1] - 1, 1)?;
        let hidden = tile.final_norm(&last, &mut Tap::default())?;
        choose(
            &transformer.unembed(&hidden)?,
            &mut rows,
            &transformer.config().end_of_text,
        )?;
        if step + 1 == max_new_tokens || rows.iter().all(|row| row.finished) {
            break;
        }
        x = next_position(tile, &prefix, &mut grown, &rows, step)?;
    }
    Ok(rows
        .into_iter()
        .map(|row| row.is_finite.then_some(Value::Generation(row.ids)))
        .collect())
}

/// Runs the tokens chosen last behind the cached prefix (per layer), the generated ones of that index, through all blocks: `[n, 1, d_model]`.
fn next_position(
    tile: &Tile<'_>,
    prefix: &[Cached<'_>],
    grown: &mut Grown,
    rows: &[Row],
    step: usize,
) -> Result<Tensor> {
    let transformer = tile.transformer;
    let device = transformer.device();
    let column = |values: Vec<i64>| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&values)?
            .f_unsqueeze(1)?
            .f_to_device(device)?)
    };
    let ids = rows
        .iter()
        .map(|row| i64::from(row.ids.last().copied().unwrap_or(0)));
    let positions = tile
        .cells
        .iter()
        .map(|cell| (cell.tokens.len() + step) as i64);
    let rotary = transformer.rotary(&column(positions.collect())?)?;
    let mut tap = tile.tap(tile.suffix + step)?;
    let mut x = transformer.embed(&column(ids.collect())?)?;
    for (layer, cached) in prefix.iter().enumerate() {
        let own_keys = grown.keys[layer].f_narrow(2, 0, grown.length)?;
        let own_values = grown.values[layer].f_narrow(2, 0, grown.length)?;
        let mut earlier = cached.earlier();
        earlier.segments.push(Segment {
            keys: &own_keys,
            values: &own_values,
            mask: None,
        });
        let (next, own) = transformer.block(layer, &x, &rotary, &earlier, None, &mut tap)?;
        if let Some((keys, values)) = own {
            grown.write(layer, &keys, &values)?;
        }
        x = next;
    }
    grown.length += 1;
    Ok(x)
}

/// One row's continuation so far.
struct Row {
    ids: Vec<u32>,
    finished: bool,
    /// Whether all logits so far were numbers.
    is_finite: bool,
    stop_at_end: bool,
    further_ends: Arc<[u32]>,
    sampling: Sampling,
    generator: SplitMix64,
}

impl Row {
    fn new(cell: &super::cell::Cell) -> Self {
        let (sampling, stop_at_end, further_ends) = match &cell.readout {
            Readout::Generation {
                sampling,
                stop_at_end,
                further_ends,
                ..
            } => (*sampling, *stop_at_end, Arc::clone(further_ends)),
            _ => (Sampling::Greedy, true, Arc::default()),
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
            finished: false,
            is_finite: true,
            stop_at_end,
            further_ends,
            sampling,
            generator: SplitMix64(u64::from_le_bytes(state)),
        }
    }
}

/// Chooses the next token of each row from logits `[n, d_vocab]`. Finished rows stay as they are.
fn choose(logits: &Tensor, rows: &mut [Row], end_of_text: &[u32]) -> Result<()> {
    let (highest, greedy) = logits.f_max_dim(-1, false)?;
    let greedy = Vec::<i64>::try_from(greedy)?;
    // A NaN among the logits is their maximum.
    let is_finite = Vec::<bool>::try_from(highest.f_isfinite()?)?;
    let sampled = rows.iter().any(|row| row.sampling != Sampling::Greedy);
    let all = if sampled {
        to_rows(&logits.f_to_kind(Kind::Float)?)?
    } else {
        Vec::new()
    };
    for (index, row) in rows.iter_mut().enumerate() {
        if row.finished {
            continue;
        }
        if !is_finite[index] {
            (row.finished, row.is_finite) = (true, false);
            continue;
        }
        let id = match row.sampling {
            Sampling::Greedy => greedy[index] as u32,
            Sampling::Seeded { temperature, .. } => {
                draw(&all[index], temperature, row.generator.next_unit())
            }
        };
        row.ids.push(id);
        let is_end = end_of_text.contains(&id) || row.further_ends.contains(&id);
        row.finished = row.stop_at_end && is_end;
    }
    Ok(())
}

/// The token at which the cumulative softmax(logits / temperature), in float64, passes `unit` in [0, 1).
fn draw(logits: &[f32], temperature: f64, unit: f64) -> u32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| (f64::from(logit - highest) / temperature).exp();
    let total: f64 = logits.iter().map(weight).sum();
    let mut left = unit * total;
    for (id, logit) in logits.iter().enumerate() {
        left -= weight(logit);
        if left < 0.0 {
            return id as u32;
        }
    }
    logits.len().saturating_sub(1) as u32
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and the same on every platform.
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

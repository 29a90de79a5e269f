//! The transformer of the `llama` and `qwen2` architectures, in plain tensor operations.
//!
//! Field names are the weight names of the Hugging Face checkpoint. One function computes a block, for whole prompts and for
//! suffixes alike: the queries of the rows at hand attend to [`Segment`]s of earlier keys and values (if any) and to themselves.
//! Edits and reads are values in a [`Tap`], consulted at each hook point; nothing is registered on the model.
//!
//! Shapes: B rows (prompts), S positions of each row computed now, T cached positions, `kv` key-value heads of `g` query heads each,
//! `dh` elements a head.

use tch::{Device, Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::config::{Dtype, ModelConfig};
use super::error::ModelError;
use super::hooks::{HookPoint, Site};

type Result<T> = std::result::Result<T, ModelError>;

/// The libtorch scalar type of a dtype.
pub fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::BFloat16 => Kind::BFloat16,
        Dtype::Float16 => Kind::Half,
    }
}

/// An affine map y = x Wᵀ + b.
struct Linear {
    /// `[out, in]`
    weight: Tensor,
    /// `[out]`
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// One block. Projections of the same input are stored as one matrix, because one large product is quicker than several small.
struct Block {
    input_layernorm: Tensor,
    /// rows: query heads, key heads, value heads
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    /// rows: gate, up
    gate_up_proj: Linear,
    down_proj: Linear,
}

/// Keys and values of positions computed earlier, for the rows at hand.
pub struct Segment<'a> {
    /// `[B, kv, T, dh]`, rotary embedding applied
    pub keys: &'a Tensor,
    /// `[B, kv, T, dh]`
    pub values: &'a Tensor,
    /// Added to the attention logits, `[B, 1, 1, T]`: 0 where the position exists, −∞ where it is padding; none when all exist.
    pub mask: Option<&'a Tensor>,
}

/// cos and sin of the rotary angles of the positions at hand, each `[B or 1, S, 1, dh]`.
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

/// What one edit does to the rows of a tile.
pub enum RowEdit {
    /// x + delta, delta `[B, d_model]`
    Add(Tensor),
    /// x − (x·v)v, v `[B, d_model]`
    Ablate(Tensor),
    /// the given rows instead, `[B, d_model]`
    Replace(Tensor),
}

/// Edits to make and vectors to keep while a pass runs.
#[derive(Default)]
pub struct Tap {
    /// (hook point, index among the S positions at hand, edit), in the order of application.
    pub edits: Vec<(HookPoint, i64, RowEdit)>,
    /// Hook points to keep; see [`Tap::kept`].
    pub wanted: Vec<HookPoint>,
    /// The index among the S positions that is kept of each row, `[B]` int64; the whole `[B, S, width]` when none.
    pub kept_positions: Option<Tensor>,
    /// What was kept, `[B, width]` or `[B, S, width]`, as it flows on after the edits.
    pub kept: Vec<(HookPoint, Tensor)>,
}

impl Tap {
    /// Applies this hook point's edits to x `[B, S, width]` and keeps it if wanted.
    pub fn pass(&mut self, hook: HookPoint, x: Tensor) -> Result<Tensor> {
        let mut x = x;
        for (_, position, edit) in self.edits.iter().filter(|(at, _, _)| *at == hook) {
            x = edited(&x, *position, edit)?;
        }
        if self.wanted.contains(&hook) {
            let kept = match &self.kept_positions {
                Some(positions) => at_positions(&x, positions)?,
                None => x.shallow_clone(),
            };
            self.kept.push((hook, kept));
        }
        Ok(x)
    }
}

/// x `[B, S, width]` at one position of each row (`[B]` int64) → `[B, width]`.
pub fn at_positions(x: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let size = x.size();
    let starts = Tensor::f_arange(size[0], (Kind::Int64, x.device()))?.f_mul_scalar(size[1])?;
    let flat = x.f_reshape([size[0] * size[1], size[2]].as_slice())?;
    Ok(flat.f_index_select(0, &starts.f_add(positions)?)?)
}

/// x `[B, S, d]` with the rows at one position changed.
fn edited(x: &Tensor, position: i64, edit: &RowEdit) -> Result<Tensor> {
    let at = x.f_select(1, position)?;
    let changed = match edit {
        RowEdit::Add(delta) => at.f_add(delta)?,
        RowEdit::Replace(rows) => rows.shallow_clone(),
        RowEdit::Ablate(direction) => {
            let component =
                at.f_mul(direction)?
                    .f_sum_dim_intlist([-1i64].as_slice(), true, None)?;
            at.f_sub(&component.f_mul(direction)?)?
        }
    };
    if x.size()[1] == 1 {
        return Ok(changed.f_unsqueeze(1)?);
    }
    let mut result = x.f_empty_like()?;
    result.f_copy_(x)?;
    result.f_select(1, position)?.f_copy_(&changed)?;
    Ok(result)
}

/// The weights, ready to compute with.
pub struct Transformer {
    config: ModelConfig,
    device: Device,
    kind: Kind,
    /// `[d_vocab, d_model]`
    embed_tokens: Tensor,
    layers: Vec<Block>,
    /// `[d_model]`
    norm: Tensor,
    /// `[d_vocab, d_model]`
    lm_head: Tensor,
    /// cos and sin of every position's angles, `[context, dh]`, float32
    rotary: (Tensor, Tensor),
}

/// Reads tensors of a checkpoint onto a device.
struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    dtype: Dtype,
    device: Device,
}

impl Loader<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let host = self.checkpoint.tensor(name, self.dtype)?;
        let size: Vec<i64> = host.shape.iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(host.bytes(), &size, kind(self.dtype))?;
        Ok(tensor.f_to_device(self.device)?)
    }

    /// The named projections, stacked along their output rows.
    fn linear(&self, prefix: &str, names: &[&str], bias: bool) -> Result<Linear> {
        let gather = |part: &str| -> Result<Tensor> {
            let parts = names
                .iter()
                .map(|name| self.tensor(&format!("{prefix}.{name}.{part}")))
                .collect::<Result<Vec<_>>>()?;
            Ok(match parts.as_slice() {
                [one] => one.shallow_clone(),
                several => Tensor::f_cat(several, 0)?,
            })
        };
        Ok(Linear {
            weight: gather("weight")?,
            bias: if bias { Some(gather("bias")?) } else { None },
        })
    }

    fn block(&self, layer: usize, config: &ModelConfig) -> Result<Block> {
        let prefix = format!("model.layers.{layer}");
        let attention = format!("{prefix}.self_attn");
        let mlp = format!("{prefix}.mlp");
        Ok(Block {
            input_layernorm: self.tensor(&format!("{prefix}.input_layernorm.weight"))?,
            qkv_proj: self.linear(&attention, &["q_proj", "k_proj", "v_proj"], config.qkv_bias)?,
            o_proj: self.linear(&attention, &["o_proj"], config.attention_output_bias)?,
            post_attention_layernorm: self
                .tensor(&format!("{prefix}.post_attention_layernorm.weight"))?,
            gate_up_proj: self.linear(&mlp, &["gate_proj", "up_proj"], config.mlp_bias)?,
            down_proj: self.linear(&mlp, &["down_proj"], config.mlp_bias)?,
        })
    }
}

impl Transformer {
    /// Loads the checkpoint's weights in the given dtype onto a device.
    ///
    /// # Errors
    /// A missing or misshapen tensor, or a device without the memory.
    pub fn load(checkpoint: &Checkpoint, dtype: Dtype, device: Device) -> Result<Self> {
        let config = checkpoint.config().clone();
        let loader = Loader {
            checkpoint,
            dtype,
            device,
        };
        let embed_tokens = loader.tensor("model.embed_tokens.weight")?;
        let lm_head = if config.tied_embeddings {
            embed_tokens.shallow_clone()
        } else {
            loader.tensor("lm_head.weight")?
        };
        let layers = (0..config.n_layers)
            .map(|layer| loader.block(layer, &config))
            .collect::<Result<_>>()?;
        Ok(Transformer {
            norm: loader.tensor("model.norm.weight")?,
            rotary: rotary_table(&config, device)?,
            embed_tokens,
            lm_head,
            layers,
            device,
            kind: kind(dtype),
            config,
        })
    }

    /// The model's dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The scalar type of weights and activations.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Token ids `[B, S]` (int64) → embeddings `[B, S, d_model]`, before any edit.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_embedding(
            &self.embed_tokens,
            ids,
            -1,
            false,
            false,
        )?)
    }

    /// Rotary angles of positions `[B or 1, S]` (int64).
    pub fn rotary(&self, positions: &Tensor) -> Result<Rotary> {
        let size = positions.size();
        let flat = positions.f_reshape([-1i64].as_slice())?;
        let pick = |table: &Tensor| -> Result<Tensor> {
            let rows = table.f_index_select(0, &flat)?;
            let dh = table.size()[1];
            Ok(rows
                .f_reshape([size[0], size[1], 1, dh].as_slice())?
                .f_to_kind(self.kind)?)
        };
        Ok(Rotary {
            cos: pick(&self.rotary.0)?,
            sin: pick(&self.rotary.1)?,
        })
    }

    /// One whole block.
    ///
    /// `x [B, S, d_model]` enters; `causal [1, 1, g·S, S]` is the mask among the S positions (none when S = 1). Returns what leaves and
    /// the keys and values of the S positions, each `[B, kv, S, dh]`.
    pub fn block(
        &self,
        layer: usize,
        x: &Tensor,
        rotary: &Rotary,
        segments: &[Segment<'_>],
        causal: Option<&Tensor>,
        tap: &mut Tap,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let x = tap.pass(HookPoint::block(layer, Site::ResidPre), x.shallow_clone())?;
        let (attention, keys, values) = self.attention(layer, &x, rotary, segments, causal, tap)?;
        let x = x.f_add(&attention)?;
        Ok((self.after_attention(layer, x, tap)?, keys, values))
    }

    /// The second half of a block: `x [B, S, d_model]` is the residual stream between attention and MLP.
    pub fn after_attention(&self, layer: usize, x: Tensor, tap: &mut Tap) -> Result<Tensor> {
        let x = tap.pass(HookPoint::block(layer, Site::ResidMid), x)?;
        let block = &self.layers[layer];
        let hidden = self.normalize(&x, &block.post_attention_layernorm)?;
        let both = block.gate_up_proj.forward(&hidden)?;
        let d_mlp = self.config.d_mlp as i64;
        let gate = both.f_narrow(-1, 0, d_mlp)?;
        let up = both.f_narrow(-1, d_mlp, d_mlp)?;
        let post = tap.pass(
            HookPoint::block(layer, Site::MlpPost),
            gate.f_silu()?.f_mul(&up)?,
        )?;
        let out = block.down_proj.forward(&post)?;
        self.after_mlp(layer, &x, out, tap)
    }

    /// The end of a block: adds the MLP's output to the stream, both `[B, S, d_model]`.
    pub fn after_mlp(
        &self,
        layer: usize,
        x: &Tensor,
        mlp_out: Tensor,
        tap: &mut Tap,
    ) -> Result<Tensor> {
        let mlp_out = tap.pass(HookPoint::block(layer, Site::MlpOut), mlp_out)?;
        tap.pass(HookPoint::block(layer, Site::ResidPost), x.f_add(&mlp_out)?)
    }

    /// What attention adds to the stream, `[B, S, d_model]`, and the new keys and values.
    fn attention(
        &self,
        layer: usize,
        x: &Tensor,
        rotary: &Rotary,
        segments: &[Segment<'_>],
        causal: Option<&Tensor>,
        tap: &mut Tap,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let block = &self.layers[layer];
        let (b, s) = (x.size()[0], x.size()[1]);
        let (kv, dh) = (self.config.n_kv_heads as i64, self.config.d_head as i64);
        let heads = self.config.n_heads as i64;
        let g = heads / kv;
        let hidden = self.normalize(x, &block.input_layernorm)?;
        let qkv = block
            .qkv_proj
            .forward(&hidden)?
            .f_view([b, s, heads + 2 * kv, dh].as_slice())?;
        let rotated = rotate(&qkv.f_narrow(2, 0, heads + kv)?, rotary)?;
        // queries of one key-value head side by side: [B, kv, g·S, dh]
        let queries = rotated
            .f_narrow(2, 0, heads)?
            .f_reshape([b, s, kv, g, dh].as_slice())?
            .f_permute([0i64, 2, 3, 1, 4].as_slice())?
            .f_reshape([b, kv, g * s, dh].as_slice())?;
        let keys = rotated
            .f_narrow(2, heads, kv)?
            .f_transpose(1, 2)?
            .f_contiguous()?;
        let values = qkv
            .f_narrow(2, heads + kv, kv)?
            .f_transpose(1, 2)?
            .f_contiguous()?;
        let own = Segment {
            keys: &keys,
            values: &values,
            mask: causal,
        };
        let z = attend(&queries, segments, &own)?
            .f_view([b, kv, g, s, dh].as_slice())?
            .f_permute([0i64, 3, 1, 2, 4].as_slice())?
            .f_reshape([b, s, heads * dh].as_slice())?;
        let z = tap.pass(HookPoint::block(layer, Site::AttnZ), z)?;
        let out = block.o_proj.forward(&z)?;
        let out = tap.pass(HookPoint::block(layer, Site::AttnOut), out)?;
        Ok((out, keys, values))
    }

    /// x · gain / rms(x), with the mean square in float32 as in transformers' `LlamaRMSNorm`.
    fn normalize(&self, x: &Tensor, gain: &Tensor) -> Result<Tensor> {
        Ok(self.unit_rms(x)?.f_mul(gain)?)
    }

    /// x / rms(x).
    fn unit_rms(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.f_to_kind(Kind::Float)?;
        let mean_square = wide
            .f_square()?
            .f_mean_dim([-1i64].as_slice(), true, Kind::Float)?;
        let scale = mean_square
            .f_add_scalar(self.config.rms_norm_eps)?
            .f_rsqrt()?;
        Ok(wide.f_mul(&scale)?.f_to_kind(self.kind)?)
    }

    /// The residual stream leaving the last block, `[B, S, d_model]` → the final norm's output, of the same shape.
    pub fn final_norm(&self, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        let normalized = tap.pass(HookPoint::FinalNormalized, self.unit_rms(x)?)?;
        Ok(normalized.f_mul(&self.norm)?)
    }

    /// The final norm's output `[.., d_model]` → logits of the whole vocabulary `[.., d_vocab]`, in the model's dtype.
    pub fn unembed(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.f_linear::<Tensor>(&self.lm_head, None)?)
    }

    /// The unembedding rows of the given tokens, `[token, d_model]`.
    pub fn unembedding_rows(&self, ids: &[u32]) -> Result<Tensor> {
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let index = Tensor::from_slice(&ids).f_to_device(self.device)?;
        Ok(self.lm_head.f_index_select(0, &index)?)
    }

    /// The causal mask among S positions computed together, repeated for the g query heads of a group: `[1, 1, g·S, S]`.
    /// None when S = 1, where there is nothing to hide.
    pub fn causal_mask(&self, s: i64) -> Result<Option<Tensor>> {
        if s == 1 {
            return Ok(None);
        }
        let g = (self.config.n_heads / self.config.n_kv_heads) as i64;
        let mask = Tensor::f_full(
            [s, s].as_slice(),
            f64::NEG_INFINITY,
            (self.kind, self.device),
        )?
        .f_triu(1)?
        .f_repeat([g, 1].as_slice())?;
        Ok(Some(mask.f_view([1, 1, g * s, s].as_slice())?))
    }
}

/// cos and sin of the rotary angles of every position of the context, each `[context, dh]`.
fn rotary_table(config: &ModelConfig, device: Device) -> Result<(Tensor, Tensor)> {
    let (frequencies, scale) = config.rope.inverse_frequencies(config.d_head);
    let frequencies = Tensor::from_slice(&frequencies);
    let positions = Tensor::f_arange(config.context_length as i64, (Kind::Float, Device::Cpu))?;
    let angles = positions
        .f_unsqueeze(1)?
        .f_mul(&frequencies.f_unsqueeze(0)?)?;
    let angles = Tensor::f_cat(&[&angles, &angles], -1)?;
    let scale = f64::from(scale);
    let finish = |t: Tensor| -> Result<Tensor> { Ok(t.f_mul_scalar(scale)?.f_to_device(device)?) };
    Ok((finish(angles.f_cos()?)?, finish(angles.f_sin()?)?))
}

/// Rotary embedding in the half-split form of transformers: x `[B, S, head, dh]`.
fn rotate(x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
    let half = x.size()[3] / 2;
    let first = x.f_narrow(3, 0, half)?;
    let second = x.f_narrow(3, half, half)?;
    let turned = Tensor::f_cat(&[&second.f_neg()?, &first], 3)?;
    Ok(x.f_mul(&rotary.cos)?.f_add(&turned.f_mul(&rotary.sin)?)?)
}

/// Attention of queries `[B, kv, g·S, dh]` to earlier segments and to themselves: one softmax over all, `[B, kv, g·S, dh]`.
/// Keys are never joined to those of the segments, which would copy the cache.
fn attend(queries: &Tensor, segments: &[Segment<'_>], own: &Segment<'_>) -> Result<Tensor> {
    let dh = queries.size()[3];
    let queries = queries.f_mul_scalar((dh as f64).powf(-0.5))?;
    let all: Vec<&Segment<'_>> = segments.iter().chain([own]).collect();
    let logits = all
        .iter()
        .map(|segment| {
            let logits = queries.f_matmul(&segment.keys.f_transpose(-1, -2)?)?;
            Ok(match segment.mask {
                Some(mask) => logits.f_add(mask)?,
                None => logits,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let joined = Tensor::f_cat(&logits, -1)?;
    let weights = joined
        .f_softmax(-1, Kind::Float)?
        .f_to_kind(queries.kind())?;
    let mut start = 0;
    let mut sum: Option<Tensor> = None;
    for segment in all {
        let length = segment.keys.size()[2];
        let part = weights
            .f_narrow(-1, start, length)?
            .f_matmul(segment.values)?;
        start += length;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| ModelError::Internal("attention without keys".to_string()))
}

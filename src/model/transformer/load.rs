//! Reading a checkpoint's tensors onto a device.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::rotary::{Angles, Pairs};
use super::{Block, GatedMlp, LayerNorm, Linear, RmsNorm, Transformer, WideRmsNorm, kind};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::{Activation, Dtype, ModelConfig, Rope};
use crate::model::error::Result;

/// Where a family takes its weights from.
pub(in crate::model) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    pub(in crate::model) config: &'a ModelConfig,
    dtype: Dtype,
    device: Device,
}

impl Loader<'_> {
    /// A tensor by its Hugging Face name.
    pub(in crate::model) fn tensor(&self, name: &str) -> Result<Tensor> {
        self.joined(&[name.to_string()])
    }

    /// The named tensors, one below the other. Each is read, copied to its place and let go before the next is read, so that beside the
    /// weights themselves never more than one tensor is in memory.
    fn joined(&self, names: &[String]) -> Result<Tensor> {
        let mut shape = self.checkpoint.shape(&names[0])?.to_vec();
        shape[0] = 0;
        for name in names {
            shape[0] += self.checkpoint.shape(name)?[0];
        }
        let result = Tensor::f_empty(sizes(&shape), (kind(self.dtype), self.device))?;
        let mut start = 0;
        for name in names {
            let host = self.checkpoint.tensor(name, self.dtype)?;
            // SAFETY: the bytes are as many as shape and dtype ask for, and outlive the view, which is only read.
            let view = unsafe {
                let bytes = host.bytes().as_ptr();
                Tensor::f_from_blob(
                    bytes,
                    &sizes(&host.shape),
                    &[],
                    kind(self.dtype),
                    Device::Cpu,
                )?
            };
            let rows = host.shape[0] as i64;
            result.f_narrow(0, start, rows)?.f_copy_(&view)?;
            start += rows;
        }
        Ok(result)
    }

    /// `name.weight`, and `name.bias` where the model has one.
    pub(in crate::model) fn linear(&self, name: &str) -> Result<Linear> {
        self.linears(&[name.to_string()])
    }

    /// Linear maps of the same input, stacked along their output rows: one product is quicker than several small.
    pub(in crate::model) fn stacked(&self, module: &str, names: &[&str]) -> Result<Linear> {
        let names = names.iter().map(|name| format!("{module}.{name}"));
        self.linears(&names.collect::<Vec<_>>())
    }

    fn linears(&self, names: &[String]) -> Result<Linear> {
        let part = |part: &str| -> Vec<String> {
            let names = names.iter().map(|name| format!("{name}.{part}"));
            names.collect()
        };
        let biases = part("bias");
        let bias = match self.checkpoint.shape(&biases[0]) {
            Ok(_) => Some(self.joined(&biases)?),
            Err(_) => None,
        };
        Ok(Linear {
            weight: self.joined(&part("weight"))?,
            bias,
        })
    }

    /// A part of a linear map: some of its output rows, which a family stores in one matrix with others.
    pub(in crate::model) fn linear_rows(&self, name: &str, rows: Range<usize>) -> Result<Linear> {
        let whole = self.linear(name)?;
        let (start, count) = (rows.start as i64, rows.len() as i64);
        // A copy: what is not asked for is let go with the whole.
        let part = |whole: &Tensor| -> Result<Tensor> {
            let rows = whole.f_narrow(0, start, count)?;
            let mut copy = rows.f_empty_like()?;
            copy.f_copy_(&rows)?;
            Ok(copy)
        };
        Ok(Linear {
            weight: part(&whole.weight)?,
            bias: whole.bias.as_ref().map(part).transpose()?,
        })
    }

    /// A linear map whose matrix is stored as `[in, out]`, as GPT-2's `Conv1D` does.
    pub(in crate::model) fn conv1d(&self, name: &str) -> Result<Linear> {
        let Linear { weight, bias } = self.linear(name)?;
        let weight = weight.f_transpose(0, 1)?.f_contiguous()?;
        Ok(Linear { weight, bias })
    }

    /// A linear map to queries, keys and values whose rows are stored head by head, each head's query, key and value one below the other: the
    /// same map with the rows of all queries first, then those of all keys, then those of all values.
    pub(in crate::model) fn head_by_head(&self, name: &str) -> Result<Linear> {
        let Linear { weight, bias } = self.linear(name)?;
        let heads = self.config.n_heads as i64;
        let sorted = |rows: &Tensor| -> Result<Tensor> {
            let by_head = rows.f_view([heads, 3, self.config.d_head as i64, -1])?;
            let by_kind = by_head.f_transpose(0, 1)?;
            Ok(by_kind.f_reshape(rows.size().as_slice())?)
        };
        Ok(Linear {
            weight: sorted(&weight)?,
            bias: bias.as_ref().map(sorted).transpose()?,
        })
    }

    /// A norm whose gain is `name.weight`.
    pub(in crate::model) fn rms_norm(&self, name: &str, epsilon: f64) -> Result<RmsNorm> {
        let gain = self.tensor(&format!("{name}.weight"))?;
        Ok(RmsNorm { gain, epsilon })
    }

    /// A norm whose gain is `name.weight`, in float32 up to its result.
    pub(in crate::model) fn wide_rms_norm(&self, name: &str, epsilon: f64) -> Result<WideRmsNorm> {
        let gain = self.tensor(&format!("{name}.weight"))?;
        Ok(WideRmsNorm {
            gain: gain.f_to_kind(Kind::Float)?,
            epsilon,
            kind: kind(self.dtype),
        })
    }

    /// The same whose gain is 1 + `name.weight`.
    pub(in crate::model) fn offset_rms_norm(
        &self,
        name: &str,
        epsilon: f64,
    ) -> Result<WideRmsNorm> {
        let norm = self.wide_rms_norm(name, epsilon)?;
        Ok(WideRmsNorm {
            gain: norm.gain.f_add_scalar(1.0)?,
            ..norm
        })
    }

    /// A norm whose gain is `name.weight`, and its bias `name.bias` where the model has one.
    pub(in crate::model) fn layer_norm(&self, name: &str, epsilon: f64) -> Result<LayerNorm> {
        let wide =
            |name: &str| -> Result<Tensor> { Ok(self.tensor(name)?.f_to_kind(Kind::Float)?) };
        let bias = format!("{name}.bias");
        let has_bias = self.checkpoint.shape(&bias).is_ok();
        Ok(LayerNorm {
            gain: wide(&format!("{name}.weight"))?,
            bias: has_bias.then(|| wide(&bias)).transpose()?,
            epsilon,
            kind: kind(self.dtype),
        })
    }

    /// A norm of so many heads, each with the gain `name.{head}.weight` and without a bias.
    pub(in crate::model) fn head_norms(
        &self,
        name: &str,
        heads: usize,
        epsilon: f64,
    ) -> Result<LayerNorm> {
        let names = (0..heads).map(|head| format!("{name}.{head}.weight"));
        let gains = self.joined(&names.collect::<Vec<_>>())?;
        let gains = gains.f_view([heads as i64, -1])?;
        Ok(LayerNorm {
            gain: gains.f_to_kind(Kind::Float)?,
            bias: None,
            epsilon,
            kind: kind(self.dtype),
        })
    }

    /// `gate_proj`, `up_proj` and `down_proj` of a module.
    pub(in crate::model) fn gated_mlp(
        &self,
        module: &str,
        activation: Activation,
    ) -> Result<GatedMlp> {
        Ok(GatedMlp {
            gate_proj: self.linear(&format!("{module}.gate_proj"))?,
            up_proj: self.linear(&format!("{module}.up_proj"))?,
            down_proj: self.linear(&format!("{module}.down_proj"))?,
            activation,
        })
    }

    /// The same of a module that stores gate and up in one matrix, `gate_up_proj`, gate first.
    pub(in crate::model) fn fused_gated_mlp(
        &self,
        module: &str,
        activation: Activation,
    ) -> Result<GatedMlp> {
        let (fused, d_mlp) = (format!("{module}.gate_up_proj"), self.config.d_mlp);
        Ok(GatedMlp {
            gate_proj: self.linear_rows(&fused, 0..d_mlp)?,
            up_proj: self.linear_rows(&fused, d_mlp..2 * d_mlp)?,
            down_proj: self.linear(&format!("{module}.down_proj"))?,
            activation,
        })
    }

    /// The rotary embedding of whole heads, half against half.
    pub(in crate::model) fn angles(&self, rope: &Rope) -> Result<Angles> {
        self.partial_angles(rope, self.config.d_head, Pairs::Halves)
    }

    /// The rotary embedding of the first `width` elements of each head.
    pub(in crate::model) fn partial_angles(
        &self,
        rope: &Rope,
        width: usize,
        pairs: Pairs,
    ) -> Result<Angles> {
        Angles::new(rope, width, pairs, self.device)
    }

    /// Every layer's block.
    pub(in crate::model) fn blocks<B: Block + 'static>(
        &self,
        load: impl Fn(usize) -> Result<B>,
    ) -> Result<Vec<Box<dyn Block>>> {
        let layers = 0..self.config.n_layers;
        let blocks = layers.map(|layer| Ok(Box::new(load(layer)?) as Box<dyn Block>));
        blocks.collect()
    }
}

fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

impl Transformer {
    /// Loads the checkpoint's weights in the given dtype onto a device.
    pub(crate) fn load(checkpoint: &Checkpoint, dtype: Dtype, device: Device) -> Result<Self> {
        let config = checkpoint.config.clone();
        let loader = Loader {
            checkpoint,
            config: &config,
            dtype,
            device,
        };
        let network = config.family.load(&loader)?;
        let mut windows: Vec<_> = network
            .blocks
            .iter()
            .map(|b| b.attention().window)
            .collect();
        windows.sort_unstable();
        windows.dedup();
        Ok(Transformer {
            border: network.rotaries.iter().find_map(Angles::border),
            network,
            windows,
            device,
            kind: kind(dtype),
            config,
        })
    }
}

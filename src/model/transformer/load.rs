//! Reading a checkpoint's tensors onto a device.

use tch::{Device, Tensor};

use super::attention::Angles;
use super::{Block, Linear, Transformer, kind};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::{Dtype, ModelConfig};
use crate::model::error::Result;

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    dtype: Dtype,
    device: Device,
}

impl Loader<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.stacked(&[name.to_string()])
    }

    /// The named tensors, one below the other. Each is read, copied to its place and let go before the next is read, so that beside the
    /// weights themselves never more than one tensor is in memory.
    fn stacked(&self, names: &[String]) -> Result<Tensor> {
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

    /// The named projections, stacked along their output rows.
    fn linear(&self, prefix: &str, names: &[&str], bias: bool) -> Result<Linear> {
        let stacked = |part: &str| {
            let names: Vec<String> = names
                .iter()
                .map(|name| format!("{prefix}.{name}.{part}"))
                .collect();
            self.stacked(&names)
        };
        Ok(Linear {
            weight: stacked("weight")?,
            bias: if bias { Some(stacked("bias")?) } else { None },
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
            gate_proj: self.linear(&mlp, &["gate_proj"], config.mlp_bias)?,
            up_proj: self.linear(&mlp, &["up_proj"], config.mlp_bias)?,
            down_proj: self.linear(&mlp, &["down_proj"], config.mlp_bias)?,
        })
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
            angles: Angles::new(&config, device)?,
            embed_tokens,
            lm_head,
            layers,
            device,
            kind: kind(dtype),
            config,
        })
    }
}

//! `olmo3`: OLMo 3. An olmo 2 with windows, and a rotary embedding for layers that attend to everything and another for the others.
//!
//! Reference: `modeling_olmo3.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};

use super::olmo2::{DEFAULTS, OlmoBlocks, network};
use super::{Architecture, NORMALIZED, Parameter, Writer};
use crate::model::config::{Fields, Rope, Sizes, check_epsilon};
use crate::model::error::Result;
use crate::model::transformer::{Attention, Loader, Network};

/// What an olmo 3 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Olmo3 {
    #[serde(flatten)]
    pub blocks: OlmoBlocks,
    /// Of layers that attend to everything.
    pub full_rope: Rope,
    /// Of layers that attend to a window.
    pub sliding_rope: Rope,
    /// The window of each layer, `[n_layers]`; none for one that attends to everything.
    pub windows: Vec<Option<usize>>,
}

impl Architecture for Olmo3 {
    const NAME: &'static str = "olmo3";
    const CLASSES: [&'static str; 2] = ["Olmo3ForCausalLM", "Olmo3Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&DEFAULTS)?;
        // The θ of older files is not that of the layers with a window, whose own stands nowhere.
        let thetas = [(Some("rope_theta"), 500_000.0), (None, 500_000.0)];
        let [full_rope, sliding_rope] = fields.ropes_by_layer(thetas, sizes.context_length)?;
        let olmo = Olmo3 {
            blocks: OlmoBlocks::read(fields)?,
            full_rope,
            sliding_rope,
            windows: fields.windows(&sizes, 4096, |layer| !(layer + 1).is_multiple_of(4))?,
        };
        Ok((sizes, olmo))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.blocks.rms_norm_eps)?;
        self.full_rope.validate(sizes.d_head)?;
        self.sliding_rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        self.blocks.parameters(sizes, layer)
    }

    fn writers(&self, _: &Sizes, _: usize) -> Result<Vec<Writer>, &'static str> {
        Err(NORMALIZED)
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let everything = Attention::of_width(loader.config.sizes.d_head);
        let block = |layer: usize| {
            let window = self.windows[layer];
            let attention = Attention {
                window,
                ..everything
            };
            let rotary = usize::from(window.is_some());
            self.blocks.load(loader, layer, attention, rotary)
        };
        let ropes = [&self.full_rope, &self.sliding_rope];
        network(loader, &self.blocks, block, &ropes)
    }
}

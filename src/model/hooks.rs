//! Hook points: named places in the forward pass where a vector can be read or edited.
//!
//! The text form is TransformerLens's name (`blocks.20.hook_resid_pre`), so that a name can be carried over from a notebook.

use std::fmt;

use super::config::ModelConfig;

/// A place inside one block. All but [`Site::AttnZ`] and [`Site::MlpPost`] have the width of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// The residual stream entering the block, `[d_model]`.
    ResidPre,
    /// The attention output per head before the output projection, value bias included, `[n_heads · d_head]`.
    AttnZ,
    /// What attention adds to the stream, `[d_model]`.
    AttnOut,
    /// The residual stream between attention and MLP, `[d_model]`.
    ResidMid,
    /// The activation inside the MLP, what its output projection reads: act(gate)·up where it is gated, `[d_mlp]`.
    MlpPost,
    /// What the MLP adds to the stream, `[d_model]`.
    MlpOut,
    /// The residual stream leaving the block, `[d_model]`.
    ResidPost,
}

impl Site {
    /// Every site, in the order of the computation.
    pub(crate) const ALL: [Site; 7] = [
        Site::ResidPre,
        Site::AttnZ,
        Site::AttnOut,
        Site::ResidMid,
        Site::MlpPost,
        Site::MlpOut,
        Site::ResidPost,
    ];

    /// The sites that have the width of the residual stream, where edits are possible.
    pub(crate) const RESIDUAL: [Site; 5] = [
        Site::ResidPre,
        Site::AttnOut,
        Site::ResidMid,
        Site::MlpOut,
        Site::ResidPost,
    ];

    /// In study files and tables, and TransformerLens's inside a block.
    const fn names(self) -> [&'static str; 2] {
        match self {
            Site::ResidPre => ["resid_pre", "hook_resid_pre"],
            Site::AttnZ => ["z", "attn.hook_z"],
            Site::AttnOut => ["attn_out", "hook_attn_out"],
            Site::ResidMid => ["resid_mid", "hook_resid_mid"],
            Site::MlpPost => ["mlp_post", "mlp.hook_post"],
            Site::MlpOut => ["mlp_out", "hook_mlp_out"],
            Site::ResidPost => ["resid_post", "hook_resid_post"],
        }
    }

    pub(crate) const fn short_name(self) -> &'static str {
        self.names()[0]
    }

    pub(crate) const fn hook_name(self) -> &'static str {
        self.names()[1]
    }

    /// By either name.
    pub(crate) fn from_name(name: &str) -> Option<Site> {
        Site::ALL
            .into_iter()
            .find(|site| site.names().contains(&name))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short_name())
    }
}

/// A place in the whole model. Ordered as the computation meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HookPoint {
    /// The token embedding, `hook_embed`, `[d_model]`.
    Embed,
    /// A site of a block, counted from 0.
    Block { layer: usize, site: Site },
    /// The final norm's output before its gain (and bias), `ln_final.hook_normalized`, `[d_model]`.
    FinalNormalized,
    /// The final norm's output, of which logits are made, `ln_final.hook_out`, `[d_model]`: the last of the `hidden_states` of transformers.
    FinalNorm,
}

impl HookPoint {
    pub fn block(layer: usize, site: Site) -> Self {
        HookPoint::Block { layer, site }
    }

    /// Whether a model has it: layers there are, and sites that such a block has.
    pub(crate) fn is_in(self, config: &ModelConfig) -> bool {
        match self {
            HookPoint::Block { layer, site } => {
                layer < config.n_layers && config.family.has(layer, site)
            }
            HookPoint::Embed | HookPoint::FinalNormalized | HookPoint::FinalNorm => true,
        }
    }

    pub(crate) fn width(self, config: &ModelConfig) -> usize {
        match self {
            HookPoint::Block {
                site: Site::AttnZ, ..
            } => config.n_heads * config.d_head,
            HookPoint::Block {
                layer,
                site: Site::MlpPost,
            } => config.family.neurons(config, layer),
            _ => config.d_model,
        }
    }

    /// Whether an edit is possible here: the vector has the residual stream's width and flows on from here.
    pub(super) fn is_editable(self) -> bool {
        match self {
            HookPoint::Embed => true,
            HookPoint::Block { site, .. } => Site::RESIDUAL.contains(&site),
            HookPoint::FinalNormalized | HookPoint::FinalNorm => false,
        }
    }

    /// Whether the vector here is the whole residual stream, not just a part added to it.
    pub(crate) fn is_stream(self) -> bool {
        use Site::{ResidMid, ResidPost, ResidPre};
        match self {
            HookPoint::Embed => true,
            HookPoint::Block { site, .. } => matches!(site, ResidPre | ResidMid | ResidPost),
            HookPoint::FinalNormalized | HookPoint::FinalNorm => false,
        }
    }

    /// The one name for places that hold the same vector: `resid_post` of block l is `resid_pre` of block l + 1. (The embedding is
    /// `resid_pre` of block 0 only where positions are not learned.)
    pub(crate) fn canonical(self, n_layers: usize) -> Self {
        match self {
            HookPoint::Block {
                layer,
                site: Site::ResidPost,
            } if layer + 1 < n_layers => HookPoint::block(layer + 1, Site::ResidPre),
            other => other,
        }
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookPoint::Embed => f.write_str("hook_embed"),
            HookPoint::Block { layer, site } => write!(f, "blocks.{layer}.{}", site.hook_name()),
            HookPoint::FinalNormalized => f.write_str("ln_final.hook_normalized"),
            HookPoint::FinalNorm => f.write_str("ln_final.hook_out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_transformer_lens() {
        for site in Site::ALL {
            assert_eq!(Site::from_name(site.short_name()), Some(site));
            assert_eq!(Site::from_name(site.hook_name()), Some(site));
        }
        assert_eq!(Site::from_name("hook_resid"), None);
        assert_eq!(
            HookPoint::block(20, Site::ResidPre).to_string(),
            "blocks.20.hook_resid_pre"
        );
        assert_eq!(
            HookPoint::block(3, Site::AttnZ).to_string(),
            "blocks.3.attn.hook_z"
        );
    }

    #[test]
    fn equal_places_have_one_canonical_name() {
        let post = HookPoint::block(3, Site::ResidPost);
        assert_eq!(post.canonical(30), HookPoint::block(4, Site::ResidPre));
        assert_eq!(post.canonical(4), post);
        assert_eq!(HookPoint::Embed.canonical(4), HookPoint::Embed);
    }
}

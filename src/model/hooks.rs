//! Hook points: named places in the forward pass where a vector can be read or edited.
//!
//! The text form is TransformerLens's name (`blocks.20.hook_resid_pre`), so that a name can be carried over from a notebook.

use std::fmt;
use std::str::FromStr;

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
    /// The gated activation inside the MLP, silu(gate)·up, `[d_mlp]`.
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

    /// The short name used in study files and tables, e.g. `resid_pre`.
    pub(crate) const fn short_name(self) -> &'static str {
        match self {
            Site::ResidPre => "resid_pre",
            Site::AttnZ => "z",
            Site::AttnOut => "attn_out",
            Site::ResidMid => "resid_mid",
            Site::MlpPost => "mlp_post",
            Site::MlpOut => "mlp_out",
            Site::ResidPost => "resid_post",
        }
    }

    /// The TransformerLens name inside a block, e.g. `hook_resid_pre` or `attn.hook_z`.
    pub(crate) const fn hook_name(self) -> &'static str {
        match self {
            Site::ResidPre => "hook_resid_pre",
            Site::AttnZ => "attn.hook_z",
            Site::AttnOut => "hook_attn_out",
            Site::ResidMid => "hook_resid_mid",
            Site::MlpPost => "mlp.hook_post",
            Site::MlpOut => "hook_mlp_out",
            Site::ResidPost => "hook_resid_post",
        }
    }

    /// The site with the given short or TransformerLens name, if there is one.
    pub(crate) fn from_name(name: &str) -> Option<Site> {
        Site::ALL
            .into_iter()
            .find(|site| site.short_name() == name || site.hook_name() == name)
    }

    /// Whether vectors at this site have the width of the residual stream, so that they can be edited.
    pub(crate) fn is_residual(self) -> bool {
        Site::RESIDUAL.contains(&self)
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
    /// A site of a block.
    Block {
        /// The block, counted from 0.
        layer: usize,
        /// The site inside it.
        site: Site,
    },
    /// x / rms(x) before the final norm's gain, `ln_final.hook_normalized`, `[d_model]`.
    FinalNormalized,
}

impl HookPoint {
    /// A site of a block.
    pub fn block(layer: usize, site: Site) -> Self {
        HookPoint::Block { layer, site }
    }

    /// Number of elements of the vector at this hook point.
    pub(crate) fn width(self, config: &ModelConfig) -> usize {
        match self {
            HookPoint::Block {
                site: Site::AttnZ, ..
            } => config.n_heads * config.d_head,
            HookPoint::Block {
                site: Site::MlpPost,
                ..
            } => config.d_mlp,
            _ => config.d_model,
        }
    }

    /// Whether an edit is possible here: the vector has the residual stream's width and flows on from here.
    pub(crate) fn is_editable(self) -> bool {
        match self {
            HookPoint::Embed => true,
            HookPoint::Block { site, .. } => site.is_residual(),
            HookPoint::FinalNormalized => false,
        }
    }

    /// Whether the vector here is the whole residual stream, not just a part added to it.
    pub(crate) fn is_stream(self) -> bool {
        match self {
            HookPoint::Embed => true,
            HookPoint::Block { site, .. } => {
                matches!(site, Site::ResidPre | Site::ResidMid | Site::ResidPost)
            }
            HookPoint::FinalNormalized => false,
        }
    }

    /// The one name for places that hold the same vector: `resid_post` of block l is `resid_pre` of block l + 1, and
    /// `hook_embed` is `resid_pre` of block 0.
    pub(crate) fn canonical(self, n_layers: usize) -> Self {
        match self {
            HookPoint::Embed => HookPoint::block(0, Site::ResidPre),
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
        }
    }
}

/// A text that names no hook point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownHookPoint(String);

impl fmt::Display for UnknownHookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites: Vec<&str> = Site::ALL.iter().map(|site| site.hook_name()).collect();
        write!(
            f,
            "unknown hook point `{}`: expected `hook_embed`, `ln_final.hook_normalized` or `blocks.{{layer}}.` and one of `{}`",
            self.0,
            sites.join("`, `")
        )
    }
}

impl std::error::Error for UnknownHookPoint {}

impl FromStr for HookPoint {
    type Err = UnknownHookPoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownHookPoint(text.to_string());
        match text {
            "hook_embed" => return Ok(HookPoint::Embed),
            "ln_final.hook_normalized" => return Ok(HookPoint::FinalNormalized),
            _ => {}
        }
        let (layer, name) = text
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split_once('.'))
            .ok_or_else(unknown)?;
        let layer = layer.parse().map_err(|_| unknown())?;
        let site = Site::ALL
            .into_iter()
            .find(|site| site.hook_name() == name)
            .ok_or_else(unknown)?;
        Ok(HookPoint::Block { layer, site })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let mut points = vec![HookPoint::Embed, HookPoint::FinalNormalized];
        points.extend(Site::ALL.map(|site| HookPoint::block(20, site)));
        for point in points {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
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
    fn an_unknown_name_says_what_is_known() {
        let message = "blocks.1.hook_resid"
            .parse::<HookPoint>()
            .map_err(|e| e.to_string());
        assert!(message.is_err_and(|m| m.contains("`blocks.1.hook_resid`")
            && m.contains("hook_resid_pre")
            && m.contains("attn.hook_z")));
    }

    #[test]
    fn equal_places_have_one_canonical_name() {
        let post = HookPoint::block(3, Site::ResidPost);
        assert_eq!(post.canonical(30), HookPoint::block(4, Site::ResidPre));
        assert_eq!(post.canonical(4), post);
        assert_eq!(
            HookPoint::Embed.canonical(4),
            HookPoint::block(0, Site::ResidPre)
        );
    }
}

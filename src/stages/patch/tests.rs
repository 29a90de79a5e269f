//! Decoding, variants and findings; what needs no model.

use std::path::Path;

use crate::spec::load_text;

use super::*;

const STUDY: &str =
    "pairing = \"models\"\ndonor = \"inst\"\nrecipient = \"base\"\nprompts = \"main\"\n";

fn decoded(text: &str) -> (Option<Patch>, String) {
    let document = load_text(Path::new("study.toml"), text, &[]).expect("valid TOML");
    let mut problems = Problems::default();
    let mut fields = Fields::new(&document.root, &mut problems).expect("a table");
    let patch = Patch::read(&mut fields, &Declared::default(), &Settings::default());
    fields.finish();
    let told = problems.finish(&document.sources);
    (
        patch,
        told.err().map(|told| told.to_string()).unwrap_or_default(),
    )
}

fn patch(more: &str) -> Patch {
    let (patch, told) = decoded(&format!("{STUDY}{more}"));
    assert_eq!(told, "");
    patch.expect("a stage")
}

#[test]
fn every_site_goes_through_every_layer() {
    let patch = patch("layer = [2, 0]\nsite = [\"attn_out\", \"hook_resid_post\"]\n");
    let variants = patch.layer.variants(&patch.site.0, 3);
    let found: Vec<_> = variants
        .iter()
        .map(|v| (v.site, v.number, v.layers.clone()))
        .collect();
    let expected = [
        (Site::AttnOut, 2, vec![2]),
        (Site::AttnOut, 0, vec![0]),
        (Site::ResidPost, 2, vec![2]),
        (Site::ResidPost, 0, vec![0]),
    ];
    assert_eq!(found, expected);
    assert_eq!(patch.layer.column(), "layer");
    assert_eq!(
        (patch.position.is_last(), patch.floor.value, patch.limit()),
        (true, 1.0, None)
    );
}

#[test]
fn last_k_patches_one_layer_more_each_time() {
    let patch = patch("cumulative = \"last_k\"\nsite = \"mlp_out\"\n");
    let variants = patch.layer.variants(&patch.site.0, 3);
    let found: Vec<_> = variants.into_iter().map(|v| (v.number, v.layers)).collect();
    assert_eq!(found, [(1, vec![2]), (2, vec![1, 2]), (3, vec![0, 1, 2])]);
    assert_eq!(patch.layer.column(), "k");
}

#[test]
fn all_mistakes_are_told() {
    let (stage, told) = decoded(&format!(
        "{STUDY}cumulative = \"last_k\"\nlayer = 1\nsite = [\"mlp_post\", \"atn_out\", \"resid_pre\", \"hook_resid_pre\"]\nfloor = 0\nlimit = 0\nposition = \"lst\"\n"
    ));
    assert!(stage.is_none());
    for message in [
        "`layer` cannot stand beside `cumulative`",
        "`mlp_post` is not a site that can be patched",
        "did you mean `attn_out`?",
        "site `resid_pre` is named twice",
        "floor `0` is not above 0",
        "`limit` must be at least 1",
        "did you mean `last`?",
    ] {
        assert!(told.contains(message), "{message} in {told}");
    }
    let (_, told) = decoded(STUDY);
    for field in ["layer", "site"] {
        assert!(told.contains(&format!("has no field `{field}`")), "{told}");
    }
}

#[test]
fn a_model_is_needed_once() {
    let names = |patch: &Patch| {
        patch
            .needs()
            .models
            .into_iter()
            .map(|m| m.value)
            .collect::<Vec<_>>()
    };
    let two = patch("layer = 1\nsite = \"resid_pre\"\n");
    assert_eq!(names(&two), ["inst", "base"]);
    let text = STUDY.replace("\"base\"", "\"inst\"");
    let (one, _) = decoded(&format!("{text}layer = 1\nsite = \"resid_pre\"\n"));
    assert_eq!(one.as_ref().map(names), Some(vec!["inst".to_string()]));
}

#[test]
fn a_parameter_that_decides_the_output_is_in_the_key() {
    let base = "layer = 1\nsite = \"resid_pre\"\n";
    let key = |text: &str| patch(text).parameters();
    assert_eq!(key(base), key(&format!("position = -1\n{base}")));
    for other in [
        "layer = 2\nsite = \"resid_pre\"\n",
        "layer = \"all\"\nsite = \"resid_pre\"\n",
        "cumulative = \"last_k\"\nsite = \"resid_pre\"\n",
        "layer = 1\nsite = \"resid_mid\"\n",
        "layer = 1\nsite = \"resid_pre\"\nposition = -2\n",
        "layer = 1\nsite = \"resid_pre\"\nfloor = 2\n",
        "layer = 1\nsite = \"resid_pre\"\nlimit = 2\n",
    ] {
        assert_ne!(key(base), key(other), "{other}");
    }
}

#[test]
fn what_is_left_out_and_what_is_constant_is_said() {
    let prompts = PromptSet {
        notes: Vec::new(),
        public: None,
        prompts: Vec::new(),
    };
    let effects = Effects {
        donor: vec![3.0, 1.0, 0.0],
        recipient: vec![1.0, 1.5, 1.0],
        patched: Vec::new(),
    };
    let findings = |more: &str| patch(more).findings(&prompts, &effects);
    let each = findings("layer = 1\nsite = \"resid_pre\"\n");
    assert_eq!(each.len(), 1);
    assert!(each[0].starts_with("1 of 3 pairs"), "{}", each[0]);
    assert!(findings("layer = 1\nsite = \"resid_pre\"\nfloor = 0.5\n").is_empty());
    let sites = "cumulative = \"last_k\"\nfloor = 0.1\nsite = [\"mlp_out\", \"resid_mid\", \"resid_post\"]\n";
    let constant = findings(sites);
    assert_eq!(constant.len(), 1);
    assert!(
        constant[0].starts_with("`resid_mid`, `resid_post`: one number"),
        "{}",
        constant[0]
    );
    assert!(findings(&format!("{sites}position = -2\n")).is_empty());
}

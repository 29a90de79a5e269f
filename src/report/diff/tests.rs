//! Files with the columns and shapes of published ones, with numbers made here.

use std::path::{Path, PathBuf};

use super::*;

const TOLERANCES: Tolerances = Tolerances {
    score: 0.01,
    rate: 0.01,
    cosine: 0.999,
};

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn of(difference: &Difference, quantity: &str) -> Comparison {
    let mut found = difference
        .comparisons
        .iter()
        .filter(|c| c.quantity == quantity);
    found
        .next()
        .unwrap_or_else(|| panic!("no {quantity} in {difference:?}"))
        .clone()
}

#[test]
fn scores_by_model_match_a_long_table() {
    let folder = tempfile::tempdir().unwrap();
    let wide =
        "id,split,category,s_base,s_inst,s_gap\nh1,harmful,x,-1.5,2.0,3.5\ne1,edge,y,0.5,1.0,0.5\n";
    let long = "model,id,split,category,score,refused\nbase,h1,harmful,x,-1.5,false\ninst,h1,harmful,x,2.5,true\ninst,e9,edge,y,1.0,true\n";
    let wide = written(folder.path(), "model_scores.csv", wide);
    let long = written(folder.path(), "score.csv", long);
    let difference = diff(&wide, &long, TOLERANCES).unwrap();
    let scores = of(&difference, "score");
    assert_eq!(
        (scores.matched, scores.only_left, scores.only_right),
        (2, 2, 1)
    );
    assert_eq!(scores.largest_difference, 0.5);
    assert!(
        scores.largest_at.contains("model=inst") && scores.largest_at.contains("id=h1"),
        "{scores:?}"
    );
    assert!(!difference.is_within());
    let generous = Tolerances {
        score: 0.5,
        ..TOLERANCES
    };
    assert!(diff(&wide, &long, generous).unwrap().is_within());
}

#[test]
fn sweeps_match_on_what_columns_and_names_say() {
    let folder = tempfile::tempdir().unwrap();
    let published = "run,model,eval_set,alpha,id,score,refuse_flag\nr,inst,harmful,-10.0,h1,1.0,1\nr,inst,harmful,-10.0,h2,-1.0,0\n";
    let ours = "model,direction,seed,layer,site,alpha,set,id,score,refused\ninst,d,0,20,resid_pre,-10,harmful,h1,1.0,true\ninst,d,0,20,resid_pre,-10,harmful,h2,-1.0,false\ninst,d,1,20,resid_pre,-10,harmful,h1,9.0,true\n";
    let published = written(
        folder.path(),
        "steering_holdout_layer20_hook_resid_pre_seed0_scores.csv",
        published,
    );
    let ours = written(folder.path(), "holdout.csv", ours);
    let difference = diff(&published, &ours, TOLERANCES).unwrap();
    assert!(difference.is_within(), "{difference:?}");
    assert_eq!(
        of(&difference, "score").matched,
        2,
        "the other seed is not matched"
    );
    let rate = of(&difference, "refusal_rate");
    assert_eq!((rate.matched, rate.largest_difference), (1, 0.0));
}

#[test]
fn nested_json_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let patch = r#"{"n_layers":2,"delta_score_mean":{"hook_mlp_out":{"0":{"harmful":0.5,"edge":-0.25},"1":{"harmful":1.0,"edge":0.0}}}}"#;
    let patch = written(folder.path(), "patch_sites.json", patch);
    let mean = "site,layer,split,n,mean_delta\nmlp_out,0,harmful,3,0.505\nmlp_out,1,edge,3,0.2\n";
    let mean = written(folder.path(), "patch.mean.csv", mean);
    let effects = of(&diff(&patch, &mean, TOLERANCES).unwrap(), "mean_delta");
    assert_eq!(
        (effects.matched, effects.only_left, effects.within),
        (2, 2, false)
    );

    let steer = r#"{"layer":20,"results":[{"alpha":-6.0,"inst_edge_meanstd":[2.5,1.0],"inst_harm_meanstd":[5.0,2.0]}]}"#;
    let steer = written(folder.path(), "steering_balanced.json", steer);
    let summary = r#"{"results_summary":{"inst":{"edge":{"-6.0":{"mean":2.5,"refuse_rate":0.5}},"harmful":{"-6.0":{"mean":5.0}}}}}"#;
    let summary = written(folder.path(), "steering_again.json", summary);
    let means = of(&diff(&steer, &summary, TOLERANCES).unwrap(), "mean");
    assert_eq!((means.matched, means.within), (2, true));
}

#[test]
fn what_cannot_be_compared_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let a = written(folder.path(), "score.csv", "id,score\na,1\n");
    let b = written(folder.path(), "notes.csv", "x\n1\n");
    let difference = diff(&a, &b, TOLERANCES).unwrap();
    assert!(!difference.is_within());
    assert!(
        difference.notes[0].contains("nothing to compare"),
        "{difference:?}"
    );
    let twice = written(folder.path(), "scores_twice.csv", "id,score\na,1\na,2\n");
    let note = diff(&a, &twice, TOLERANCES).unwrap().notes[0].clone();
    assert!(
        note.contains("several rows of `scores_twice.csv`"),
        "{note}"
    );
    let message = diff(&a, &folder.path().join("none"), TOLERANCES)
        .unwrap_err()
        .to_string();
    assert!(message.contains("expected a run's folder"), "{message}");
}

/// A direction as a run leaves it.
fn direction(folder: &Path, name: &str, values: &[f32]) -> PathBuf {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let shape = vec![values.len()];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes);
    let bytes = safetensors::serialize([("direction", view.unwrap())], None).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn of_a_table_with_fewer_prompts_means_are_over_those_that_both_have() {
    let folder = tempfile::tempdir().unwrap();
    let ours = "model,direction,seed,layer,site,alpha,set,id,score,refused\n\
                inst,d,,20,resid_pre,-10.0,edge,e1,1.0,true\ninst,d,,20,resid_pre,-10.0,edge,e2,9.0,true\n\
                inst,d,,20,resid_pre,0.0,edge,e1,2.0,true\ninst,d,,20,resid_pre,0.0,edge,e2,-9.0,false\n";
    let theirs = "id,split,layer,alpha,score\ne1,edge,20,-10,1.00004\ne1,edge,20,0,2.00004\n";
    let ours = written(folder.path(), "steer.csv", ours);
    let theirs = written(folder.path(), "steer_l20.csv", theirs);
    let difference = diff(&ours, &theirs, TOLERANCES).unwrap();
    assert!(difference.is_within(), "{difference:?}");
    let scores = of(&difference, "score");
    assert_eq!(
        (scores.matched, scores.only_left, scores.only_right),
        (2, 2, 0)
    );
    let means = of(&difference, "mean");
    assert_eq!((means.matched, means.only_left), (2, 0));
    assert!(means.largest_difference < 1e-4, "{means:?}");
    let note = "steer mean: over the prompts that both sides have at the same place";
    assert_eq!(difference.notes, [note]);
}

#[test]
fn means_over_other_numbers_of_prompts_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let many = "model,layer,site,alpha,set,n,mean\ninst,20,resid_pre,0,edge,200,1.0\ninst,20,resid_pre,0,harmful,80,3.0\n";
    let few = "model,layer,site,alpha,set,n,mean\ninst,20,resid_pre,0,edge,16,2.0\ninst,20,resid_pre,0,harmful,80,3.0\n";
    let many = written(folder.path(), "steer_many.csv", many);
    let few = written(folder.path(), "steer_few.csv", few);
    let difference = diff(&many, &few, TOLERANCES).unwrap();
    assert_eq!(of(&difference, "mean").matched, 1);
    assert!(difference.is_within(), "{difference:?}");
    assert_eq!(
        difference.notes,
        [
            "steer mean: 1 means over different numbers of prompts (200 and 16, for one) are not compared"
        ]
    );
}

#[test]
fn pairs_of_patches_match_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let ours = "donor_model,recipient_model,donor,recipient,split,category,site,layer,score_donor,score_recipient,score_patched,delta\n\
                inst,inst,h1,e1,edge,x,resid_pre,3,2.0,0.5,0.75,0.25\ninst,inst,h2,e2,edge,x,resid_pre,3,2.0,0.5,1.0,0.5\n";
    let theirs = "donor,recipient,site,layer,score_recipient,score_patched\nh1,e1,hook_resid_pre,3,0.5,0.75\nh2,e2,hook_resid_pre,3,0.5,1.5\n";
    let ours = written(folder.path(), "patch.csv", ours);
    let theirs = written(folder.path(), "patch_pairs.csv", theirs);
    let difference = diff(&ours, &theirs, TOLERANCES).unwrap();
    let patched = of(&difference, "score_patched");
    assert_eq!((patched.matched, patched.within), (2, false));
    assert!(
        patched.largest_at.contains("donor=h2 recipient=e2"),
        "{patched:?}"
    );
}

#[test]
fn a_direction_in_a_file_meets_the_one_of_its_layer() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("directions");
    std::fs::create_dir(&runs).unwrap();
    direction(
        &runs,
        "direction.layer20.resid_pre.safetensors",
        &[1.0, 0.0],
    );
    direction(
        &runs,
        "direction.layer21.resid_pre.safetensors",
        &[0.0, 1.0],
    );
    let other = direction(folder.path(), "direction_l20.safetensors", &[2.0, 0.0]);
    let difference = diff(&runs, &other, TOLERANCES).unwrap();
    let cosine = of(&difference, "cosine");
    assert_eq!(
        (cosine.matched, cosine.only_left, cosine.within),
        (1, 1, true)
    );
    assert_eq!(
        cosine.largest_at,
        "direction.layer20.resid_pre × direction_l20"
    );
    let unlike = direction(folder.path(), "direction_l21.safetensors", &[1.0, 1.0]);
    assert!(!diff(&runs, &unlike, TOLERANCES).unwrap().is_within());
}

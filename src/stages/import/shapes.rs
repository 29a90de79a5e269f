//! What the files of a published study call things, and where they have them: the study is *The Refusal Dial*.
//!
//! Nothing else in the program knows it. To read the files of another study, add its names here. A group of a pattern is named as the column
//! of [`super::Row`] that it fills: `layer(?<layer>\d+)` says the layer.

/// What the name of a file says of all its rows: `steering_holdout_layer20_hook_resid_pre_seed0.json`.
pub(super) const FILE_NAMES: [&str; 3] = [
    r"layer_?(?<layer>\d+)",
    r"seed(?<seed>\d+)(?:\D|$)",
    r"(?:hook_)?(?<site>resid_pre|resid_mid|resid_post|attn_out|mlp_out)",
];

/// Kinds of stages that the name of a file says; the first counts.
pub(super) const KINDS: [&str; 6] = ["xstest", "holdout", "random", "patch", "steer", "score"];

/// Columns of CSV, and fields of JSON, by the names they have where these are not just their own; the first that is there counts.
pub(super) const COLUMNS: [(&str, &[&str]); 6] = [
    ("id", &["id", "example_id", "prompt_id"]),
    ("set", &["eval_set", "set", "split", "label"]),
    ("category", &["category", "type"]),
    ("refused", &["refused", "refuse_flag", "refuse"]),
    ("text", &["text", "completion", "continuation"]),
    ("refusal_rate", &["refusal_rate", "refuse_rate"]),
];

/// Columns of a table with a row a prompt.
pub(super) const OF_PROMPTS: [&str; 9] = [
    "id", "model", "layer", "seed", "site", "alpha", "set", "category", "prompt",
];

/// A column for each model, side by side; the difference of two is none.
pub(super) const SCORES_OF_A_MODEL: &str = "s_";
pub(super) const DIFFERENCE_OF_SCORES: &str = "s_gap";

/// Columns that only published tables have.
pub(super) const PUBLISHED_COLUMNS: [&str; 5] =
    ["eval_set", "example_id", "refuse", "refuse_flag", "s_gap"];

/// Where JSON has rows: the pattern of the path to them.
pub(super) type Place = (&'static str, Holds);

/// What is at such a place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    /// An object with some of these fields.
    Fields(&'static [&'static str]),
    /// A list of these, in this order.
    List(&'static [&'static str]),
    Number(&'static str),
}

/// Means and rates, nested under seeds, models, sets and α; means alone, in a list by α.
const GROUPS: [Place; 2] = [
    (
        r"^(?:results_summary|summaries|summary)/(?:(?<seed>\d+)/)?(?<model>[^/]+)/(?:(?<set>[^/]+)/)?(?<alpha>-?\d[^/]*)$",
        Holds::Fields(&["mean", "std", "refusal_rate", "n"]),
    ),
    (
        r"^results/(?<alpha>[^/]+)/(?<model>.+)_(?<set>[^_/]+)_meanstd$",
        Holds::List(&["mean", "std"]),
    ),
];

/// Mean effects of patches by site, layer and split; the residual stream is the one site that is left out.
const EFFECTS: [Place; 1] = [(
    r"^delta_score_mean/(?:(?<site>\D[^/]*)/)?(?<layer>\d+)/(?<set>[^/]+)$",
    Holds::Number("mean_delta"),
)];

/// The same of the last K layers.
const EFFECTS_OF_LAST: [Place; 1] = [(
    r"^delta_score_mean/(?:(?<site>\D[^/]*)/)?(?<k>\d+)/(?<set>[^/]+)$",
    Holds::Number("mean_delta"),
)];

/// Where a file of that kind and name has rows.
pub(super) fn places(kind: &str, name: &str) -> &'static [Place] {
    match kind {
        "patch" if name.to_ascii_lowercase().contains("lastk") => &EFFECTS_OF_LAST,
        "patch" => &EFFECTS,
        _ => &GROUPS,
    }
}

/// The site of patches that name none.
pub(super) const SITE_OF_PATCHES: &str = "resid_pre";
/// Lists that have rows, and the field that tells their items apart.
pub(super) const LISTS: [&str; 1] = ["results"];
pub(super) const LISTED_BY: &str = "alpha";
/// The parts of a file that hold results, for a message.
pub(super) const RESULTS: &str =
    "`results`, `results_summary`, `summaries`, `summary`, `delta_score_mean`";

/// What a JSON file says of all its rows, and where.
pub(super) const OF_ALL: [(&str, &str); 3] = [
    ("layer", "/layer"),
    ("site", "/site"),
    ("seed", "/holdout/seed"),
];
/// Objects that say how many prompts each set has.
pub(super) const COUNTS: [&str; 2] = ["/counts", "/holdout/counts"];
/// The same of the set `edge`, as its two groups.
pub(super) const EDGE_COUNTS: &str = "/edge_counts";

/// Objects that name the prompts that built a direction, as `top_ids` and `bottom_ids`.
pub(super) const SELECTIONS: [&str; 2] = ["/direction", "/balanced_selection"];
/// The share held out, and the sizes of the two halves.
pub(super) const HELD_OUT: &str = "/holdout/holdout_frac";
pub(super) const HALVES: [&str; 2] = ["/holdout/counts/edge_train", "/holdout/counts/edge_holdout"];

/// A set's name as stages call it.
pub(super) fn set(name: &str) -> &str {
    match name {
        "harm" => "harmful",
        name => name,
    }
}

/// The set of a prompt of which only its type is said: XSTest's label follows from it.
pub(super) fn xstest_label(category: &str) -> &'static str {
    match category.starts_with("contrast_") {
        true => "unsafe",
        false => "safe",
    }
}

/// A site's short name.
pub(super) fn site(name: &str) -> &str {
    name.trim_start_matches("hook_")
}

/// Columns of tables of statistics: name, whose sweep it is of, and table and column of a summary; and how far numbers may lie apart that
/// are the same. Rates over seeds by α (the Pareto tables) and one row a model about the controls are sums of a few terms of size 1 or
/// less, written in full.
const IN_FULL: (&str, f64) = (
    "edge_mean_holdout              holdout  controls          edge_mean
     edge_std_holdout               holdout  controls          edge_std
     harm_mean_holdout              holdout  controls          harmful_mean
     harm_std_holdout               holdout  controls          harmful_std
     gap_mean_holdout               holdout  controls          gap_mean
     gap_std_holdout                holdout  controls          gap_std
     edge_mean_random               random   controls          edge_mean
     edge_std_random                random   controls          edge_std
     harm_mean_random               random   controls          harmful_mean
     harm_std_random                random   controls          harmful_std
     gap_mean_random                random   controls          gap_mean
     gap_std_random                 random   controls          gap_std
     holdout_gen_gap_mean           holdout  generalisation    gap_mean
     holdout_gen_gap_max            holdout  generalisation    gap_max
     holdout_best_alpha_by_max_gap  holdout  operating_points  alpha_at_largest_gap
     holdout_best_gap               holdout  operating_points  largest_gap
     holdout_best_edge_holdout      holdout  operating_points  edge_rate_at_largest_gap
     holdout_best_harmful           holdout  operating_points  harmful_rate_at_largest_gap
     random_best_alpha_by_max_gap   random   operating_points  alpha_at_largest_gap
     random_best_gap                random   operating_points  largest_gap
     random_best_edge               random   operating_points  edge_rate_at_largest_gap
     random_best_harmful            random   operating_points  harmful_rate_at_largest_gap",
    1e-12,
);

/// Operating points of several runs, with four decimals.
const FOUR_DECIMALS: (&str, f64) = (
    "gap_at_alpha0                  steer    operating_points  gap_at_zero
     alpha_edge<=target             steer    operating_points  alpha_at_edge_target
     edge_rate@alpha_edge           steer    operating_points  edge_rate_at_edge_target
     harm_rate@alpha_edge           steer    operating_points  harmful_rate_at_edge_target
     alpha_harm<=target             steer    operating_points  alpha_at_harmful_target
     edge_rate@alpha_harm           steer    operating_points  edge_rate_at_harmful_target
     harm_rate@alpha_harm           steer    operating_points  harmful_rate_at_harmful_target
     best_alpha_by_max_gap          steer    operating_points  alpha_at_largest_gap
     best_gap                       steer    operating_points  largest_gap
     best_edge_rate                 steer    operating_points  edge_rate_at_largest_gap
     best_harm_rate                 steer    operating_points  harmful_rate_at_largest_gap",
    0.5e-4 + 1e-9,
);

/// A column of a table of statistics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistic {
    /// Whose sweep it is of.
    pub(super) source: &'static str,
    /// Table and column of a summary that have the same.
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    /// How far apart the two may be.
    pub(super) tolerance: f64,
}

/// What the column of that name holds, if it is known.
pub(super) fn statistic(name: &str) -> Option<Statistic> {
    [IN_FULL, FOUR_DECIMALS]
        .into_iter()
        .find_map(|(columns, tolerance)| {
            let rows = columns.lines().map(|line| line.split_whitespace());
            let mut rows = rows.filter_map(|row| row.collect::<Vec<_>>().try_into().ok());
            let is_it = |[theirs, ..]: &[&str; 4]| *theirs == name;
            let [_, source, table, column] = rows.find(is_it)?;
            Some(Statistic {
                source,
                table,
                column,
                tolerance,
            })
        })
}

/// The model in the name of a file of statistics that has no such column: `…_inst_controls_pareto.csv`.
pub(super) fn model_in(name: &str) -> &str {
    let stem = name.split("_controls_").next().unwrap_or_default();
    stem.rsplit('_').next().unwrap_or_default()
}

/// Whether a row of a table over several runs is of that layer, where the name of its run says one.
pub(super) fn is_of_layer(run: &str, layer: u64) -> bool {
    run.starts_with(&format!("layer{layer}_"))
}

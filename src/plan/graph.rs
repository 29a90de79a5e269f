//! The graph of a study: names that stand for something, stages that are given what they want, and an order in which they can run.

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

use crate::spec::{Problems, suggest};
use crate::stages::{Name, Product};

use super::study::StageSpec;

/// Checks that a name is one of those known.
pub(super) fn check_name<'a>(
    name: &Name,
    what: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    problems: &mut Problems,
) -> bool {
    if known.clone().any(|k| k == name.value) {
        return true;
    }
    let diagnostic = problems.error_at(&name.at, format!("there is no {what} `{}`", name.value));
    let all: Vec<String> = known.clone().map(|k| format!("`{k}`")).collect();
    match suggest(&name.value, known) {
        Some(meant) => diagnostic.label(format!("did you mean `{meant}`?")),
        None if all.is_empty() => diagnostic.label(format!("the study has no {what}")),
        None => diagnostic.label(format!("the study has {}", all.join(", "))),
    };
    false
}

/// Checks that every name stands for something, and every stage for the right product.
pub(super) fn check_names(
    stages: &[StageSpec],
    names: &[String],
    models: &[&str],
    prompts: &[&str],
    problems: &mut Problems,
) {
    for spec in stages {
        let needs = spec.stage.needs();
        for name in &needs.models {
            check_name(name, "model", models.iter().copied(), problems);
        }
        for name in &needs.prompts {
            check_name(name, "prompt set", prompts.iter().copied(), problems);
        }
        for (name, wanted) in &needs.stages {
            if check_name(name, "stage", names.iter().map(String::as_str), problems) {
                check_product(spec, name, *wanted, stages, problems);
            }
        }
    }
}

fn check_product(
    spec: &StageSpec,
    name: &Name,
    wanted: Product,
    stages: &[StageSpec],
    problems: &mut Problems,
) {
    let Some(given) = stages.iter().find(|s| s.name == name.value) else {
        return;
    };
    if given.product().serves(wanted) {
        return;
    }
    let makers: Vec<&str> = stages
        .iter()
        .filter(|s| s.product().serves(wanted))
        .map(|s| s.name.as_str())
        .collect();
    let diagnostic = problems.error_at(
        &name.at,
        format!(
            "stage `{}` wants {}, but `{}` gives {}",
            spec.name,
            wanted.noun(),
            name.value,
            given.product().noun()
        ),
    );
    diagnostic.label(format!("expected a stage that gives {}", wanted.noun()));
    if !makers.is_empty() {
        diagnostic.help(format!("these do: `{}`", makers.join("`, `")));
    }
}

/// Puts stages after those they refer to, otherwise in the order of the file; a cycle is a problem, and leaves them as they were.
pub(super) fn sort(stages: Vec<StageSpec>, problems: &mut Problems) -> Vec<StageSpec> {
    let mut graph: DiGraph<usize, ()> = DiGraph::new();
    let nodes: Vec<NodeIndex> = (0..stages.len()).map(|i| graph.add_node(i)).collect();
    for (index, spec) in stages.iter().enumerate() {
        for (name, _) in spec.stage.needs().stages {
            if let Some(from) = stages.iter().position(|s| s.name == name.value) {
                graph.add_edge(nodes[from], nodes[index], ());
            }
        }
    }
    if toposort(&graph, None).is_err() {
        for cycle in tarjan_scc(&graph) {
            report_cycle(&cycle, &graph, &stages, problems);
        }
        return stages;
    }
    let order = file_order(&graph);
    let mut slots: Vec<Option<StageSpec>> = stages.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|index| slots[index].take())
        .collect()
}

/// A topological order that takes, of the stages that are ready, the first in the file.
fn file_order(graph: &DiGraph<usize, ()>) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < graph.node_count() {
        let ready = graph.node_indices().find(|&node| {
            let mut needed = graph.neighbors_directed(node, petgraph::Direction::Incoming);
            !order.contains(&graph[node]) && needed.all(|from| order.contains(&graph[from]))
        });
        match ready {
            Some(node) => order.push(graph[node]),
            None => break,
        }
    }
    order
}

fn report_cycle(
    cycle: &[NodeIndex],
    graph: &DiGraph<usize, ()>,
    stages: &[StageSpec],
    problems: &mut Problems,
) {
    let on_itself = cycle.len() == 1 && graph.contains_edge(cycle[0], cycle[0]);
    if cycle.len() < 2 && !on_itself {
        return;
    }
    let mut members: Vec<usize> = cycle.iter().map(|&node| graph[node]).collect();
    members.sort_unstable();
    let names: Vec<String> = members
        .iter()
        .map(|&i| format!("`{}`", stages[i].name))
        .collect();
    let message = match names.as_slice() {
        [one] => format!("stage {one} waits for itself"),
        several => format!("stages {} wait for each other", several.join(" and ")),
    };
    let Some(first) = members.first() else { return };
    let needs = stages[*first].stage.needs().stages;
    let into = needs
        .iter()
        .find(|(name, _)| members.iter().any(|&i| stages[i].name == name.value));
    let at = into.map_or(&stages[*first].at, |(name, _)| &name.at);
    problems
        .error_at(at, message)
        .label("this reference closes the circle");
}

//! The graph of a study: names that stand for something, stages that are given what they want, and an order in which they can run.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::spec::Problems;
use crate::stages::{Name, Product};

use super::study::StageSpec;

/// Names that a slip of the pen is looked for among.
const SUGGESTED_FROM: usize = 1000;
/// More names than this are no help.
const LISTED: usize = 20;

/// The names of one kind of thing that a study has.
pub(super) struct Known<'a> {
    what: &'static str,
    in_order: Vec<&'a str>,
    all: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    /// The names of `what` ("model"), in the order of the file: also of what cannot be decoded, since a mistake in an entry is not a
    /// missing name.
    pub(super) fn new(what: &'static str, names: impl Iterator<Item = &'a str>) -> Self {
        let in_order: Vec<&str> = names.collect();
        Known {
            what,
            all: in_order.iter().copied().collect(),
            in_order,
        }
    }

    pub(super) fn check(&self, name: &Name, problems: &mut Problems) -> bool {
        if self.all.contains(name.value.as_str()) {
            return true;
        }
        let what = self.what;
        let listed = self.in_order.iter().take(LISTED);
        let mut listed: Vec<String> = listed.map(|name| format!("`{name}`")).collect();
        let more = self.in_order.len() - listed.len();
        listed.extend((more > 0).then(|| format!("{more} more")));
        let there_are = match listed.is_empty() {
            true => format!("the study has no {what}"),
            false => format!("the study has {}", listed.join(", ")),
        };
        // A list so long was written by a program, which makes no slips of the pen.
        let near = self.in_order.iter().copied().take(SUGGESTED_FROM);
        problems
            .error_at(&name.at, format!("there is no {what} `{}`", name.value))
            .suggest(&name.value, near, &there_are);
        false
    }
}

/// Checks that every name stands for something, and every stage for the right product. Known are models, prompt sets and stages.
pub(super) fn check_names(
    stages: &[StageSpec],
    [models, prompts, names]: &[Known<'_>; 3],
    problems: &mut Problems,
) {
    let by_name = stages.iter().map(|spec| (spec.name.as_str(), spec));
    let by_name: HashMap<&str, &StageSpec> = by_name.collect();
    for spec in stages {
        let needs = spec.stage.needs();
        for name in &needs.models {
            models.check(name, problems);
        }
        for name in &needs.prompts {
            prompts.check(name, problems);
        }
        for (name, wanted) in &needs.stages {
            let given = by_name.get(name.value.as_str());
            if names.check(name, problems)
                && let Some(given) = given
                && !given.product.serves(*wanted)
            {
                wrong_product(spec, name, *wanted, (given, stages), problems);
            }
        }
    }
}

/// Says that a stage refers to one that gives another thing than it wants.
fn wrong_product(
    spec: &StageSpec,
    name: &Name,
    wanted: Product,
    (given, stages): (&StageSpec, &[StageSpec]),
    problems: &mut Problems,
) {
    let makers = stages.iter().filter(|s| s.product.serves(wanted));
    let makers: Vec<&str> = makers.map(|s| s.name.as_str()).take(LISTED).collect();
    let (name, at, wanted, gives) = (&name.value, &name.at, wanted.noun(), given.product.noun());
    let diagnostic = problems.error_at(
        at,
        format!(
            "stage `{}` wants {wanted}, but `{name}` gives {gives}",
            spec.name
        ),
    );
    diagnostic.label(format!("expected a stage that gives {wanted}"));
    if !makers.is_empty() {
        diagnostic.help(format!("these do: `{}`", makers.join("`, `")));
    }
}

/// Stages by their places in the file, each behind those it refers to.
type Graph = DiGraph<(), ()>;

/// Puts stages after those they refer to, otherwise in the order of the file; a cycle is a problem, and those in it and behind it come last.
pub(super) fn sort(stages: Vec<StageSpec>, problems: &mut Problems) -> Vec<StageSpec> {
    let mut graph = Graph::new();
    let nodes = stages
        .iter()
        .map(|spec| (spec.name.as_str(), graph.add_node(())));
    let nodes: HashMap<&str, NodeIndex> = nodes.collect();
    for spec in &stages {
        for (name, _) in spec.stage.needs().stages {
            if let Some(from) = nodes.get(name.value.as_str()) {
                graph.add_edge(*from, nodes[spec.name.as_str()], ());
            }
        }
    }
    let mut order = file_order(&graph);
    if order.len() < stages.len() {
        for cycle in tarjan_scc(&graph) {
            report_cycle(&cycle, &graph, &stages, problems);
        }
        order.extend(0..stages.len());
    }
    let mut slots: Vec<Option<StageSpec>> = stages.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|index| slots[index].take())
        .collect()
}

/// A topological order that takes, of the stages that are ready, the first in the file; without those in a cycle and behind it.
fn file_order(graph: &Graph) -> Vec<usize> {
    let needed = |node: NodeIndex| graph.edges_directed(node, Direction::Incoming).count();
    let mut waits_for: Vec<usize> = graph.node_indices().map(needed).collect();
    let ready = graph.node_indices().filter(|node| needed(*node) == 0);
    let mut ready: BinaryHeap<Reverse<NodeIndex>> = ready.map(Reverse).collect();
    let mut order: Vec<usize> = Vec::with_capacity(waits_for.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node.index());
        for next in graph.neighbors_directed(node, Direction::Outgoing) {
            waits_for[next.index()] -= 1;
            if waits_for[next.index()] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    order
}

fn report_cycle(cycle: &[NodeIndex], graph: &Graph, stages: &[StageSpec], problems: &mut Problems) {
    if let [alone] = *cycle
        && !graph.contains_edge(alone, alone)
    {
        return;
    }
    let mut members: Vec<usize> = cycle.iter().map(|node| node.index()).collect();
    members.sort_unstable();
    let members: Vec<&StageSpec> = members.into_iter().map(|place| &stages[place]).collect();
    let names = members.iter().map(|spec| format!("`{}`", spec.name));
    let names: Vec<String> = names.collect();
    let message = match names.as_slice() {
        [one] => format!("stage {one} waits for itself"),
        several => format!("stages {} wait for each other", several.join(" and ")),
    };
    let needs = members[0].stage.needs().stages;
    let is_member = |name: &Name| members.iter().any(|spec| spec.name == name.value);
    let into = needs.iter().find(|(name, _)| is_member(name));
    let at = into.map_or(&members[0].at, |(name, _)| &name.at);
    problems
        .error_at(at, message)
        .label("this reference closes the circle");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of stages of which some wait for others, each pair (earlier, later).
    fn order(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
        let mut graph = Graph::new();
        let nodes: Vec<NodeIndex> = (0..count).map(|_| graph.add_node(())).collect();
        for (from, to) in edges {
            graph.add_edge(nodes[*from], nodes[*to], ());
        }
        file_order(&graph)
    }

    #[test]
    fn stages_keep_the_order_of_the_file_where_they_can() {
        assert_eq!(order(3, &[]), [0, 1, 2]);
        assert_eq!(order(4, &[(3, 0), (3, 0), (0, 1)]), [2, 3, 0, 1]);
        assert_eq!(order(4, &[(1, 3), (3, 2)]), [0, 1, 3, 2]);
        assert_eq!(order(4, &[(1, 2), (2, 1), (2, 3)]), [0]);
    }

    #[test]
    fn a_name_that_is_unknown_among_many_is_told_shortly() {
        let names: Vec<String> = (0..50).map(|number| format!("stage{number:03}")).collect();
        let document = crate::spec::load_text(std::path::Path::new("s.toml"), "x = \"y\"\n", &[]);
        let document = document.unwrap();
        let at = document
            .root
            .as_table()
            .unwrap()
            .get("x")
            .unwrap()
            .at
            .clone();
        let name = Name {
            value: "y".to_string(),
            at,
        };
        let mut problems = Problems::default();
        let known = Known::new("stage", names.iter().map(String::as_str));
        assert!(!known.check(&name, &mut problems));
        let message = problems.finish(&document.sources).unwrap_err().to_string();
        assert!(message.contains("`stage019`, 30 more"), "{message}");
        assert!(!message.contains("stage020"), "{message}");
    }
}

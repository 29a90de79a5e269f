//! The pipeline as a picture: Mermaid and Graphviz text, and SVG with statuses and times.

use std::collections::HashMap;
use std::fmt::Write;

use crate::manifest::{Node, StageStatus};

use super::svg::{escaped, fitted};
use super::{FinishedRun, FinishedStage};

/// A Mermaid flowchart. Stage names are letters, digits, `-` and `_`; nodes are numbered, because Mermaid reserves some words.
pub(crate) fn mermaid(nodes: &[Node]) -> String {
    let mut text = "flowchart LR\n".to_string();
    for (index, node) in nodes.iter().enumerate() {
        let kind = kind_after("<br/>", node);
        let _ = writeln!(text, "    s{index}[\"{}{kind}\"]", node.name);
    }
    for (index, node) in nodes.iter().enumerate() {
        for before in numbers_before(node, nodes) {
            let _ = writeln!(text, "    s{before} --> s{index}");
        }
    }
    text
}

/// A Graphviz digraph.
pub(crate) fn graphviz(nodes: &[Node]) -> String {
    let mut text = "digraph study {\n    rankdir=LR;\n    node [shape=box, style=rounded, fontname=\"sans-serif\"];\n".to_string();
    for node in nodes {
        let kind = kind_after("\\n", node);
        let _ = writeln!(
            text,
            "    \"{}\" [label=\"{}{kind}\"];",
            node.name, node.name
        );
    }
    for node in nodes {
        for before in node.after() {
            let _ = writeln!(text, "    \"{before}\" -> \"{}\";", node.name);
        }
    }
    text + "}\n"
}

/// The kind of a stage, behind `joint`; nothing where its name says it.
fn kind_after(joint: &str, node: &Node) -> String {
    match node.shown_as == node.name {
        true => String::new(),
        false => format!("{joint}{}", node.shown_as),
    }
}

/// The numbers of the stages that one refers to.
fn numbers_before(node: &Node, nodes: &[Node]) -> Vec<usize> {
    let names = node.after().into_iter();
    let number = |name: &str| nodes.iter().position(|node| node.name == name);
    names.filter_map(number).collect()
}

/// Size of a box, and from one box to the next, in pixels.
const BOX: (f64, f64) = (176.0, 50.0);
const STEP: (f64, f64) = (226.0, 66.0);

/// The stages of a run as SVG, left to right, with statuses and times: one stands a column after the last that it refers to.
pub(super) fn svg(run: &FinishedRun) -> String {
    let nodes = &run.manifest.graph;
    let mut columns: Vec<usize> = Vec::new();
    for node in nodes {
        let before = numbers_before(node, nodes).into_iter();
        let before = before.filter_map(|index| columns.get(index));
        columns.push(before.max().map_or(0, |last| last + 1));
    }
    let mut filled: HashMap<usize, usize> = HashMap::new();
    let mut places = Vec::new();
    for column in &columns {
        let row = filled.entry(*column).or_insert(0);
        places.push((4.0 + STEP.0 * *column as f64, 4.0 + STEP.1 * *row as f64));
        *row += 1;
    }
    let width = STEP.0 * columns.iter().max().map_or(1, |last| last + 1) as f64 - 40.0;
    let height = STEP.1 * filled.values().max().copied().unwrap_or(1) as f64;
    let mut text = format!(
        "<svg class=\"dag\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" style=\"max-width:{width:.0}px\" font-family=\"inherit\" role=\"img\" aria-label=\"the stages and what each refers to\">\n"
    );
    for (node, place) in nodes.iter().zip(&places) {
        for before in numbers_before(node, nodes) {
            edge(&mut text, places[before], *place);
        }
    }
    for (stage, place) in run.stages.iter().zip(&places) {
        draw(&mut text, stage, *place);
    }
    text + "</svg>\n"
}

fn edge(text: &mut String, from: (f64, f64), to: (f64, f64)) {
    let (x1, y1) = (from.0 + BOX.0, from.1 + BOX.1 / 2.0);
    let (x2, y2) = (to.0, to.1 + BOX.1 / 2.0);
    let bend = (x2 - x1) / 2.0;
    let _ = writeln!(
        text,
        "<path d=\"M{x1:.0} {y1:.0} C{:.0} {y1:.0} {:.0} {y2:.0} {x2:.0} {y2:.0}\" fill=\"none\" stroke=\"#9a9a9a\" stroke-width=\"1.4\"/>",
        x1 + bend,
        x2 - bend
    );
}

fn draw(text: &mut String, stage: &FinishedStage, (x, y): (f64, f64)) {
    let (name, node) = (&stage.name, &stage.node);
    let status = stage.result.as_ref().and_then(|result| result.status);
    let stroke = match status {
        Some(StageStatus::Cached) => "#0072B2",
        Some(StageStatus::Computed) => "#009E73",
        Some(StageStatus::Failed | StageStatus::Interrupted) => "#D55E00",
        _ => "#9a9a9a",
    };
    let note = match status {
        None => stage.status().to_string(),
        Some(_) => format!("{}, {:.1} s", stage.status(), stage.seconds()),
    };
    let kind = kind_after(" · ", node);
    let room = BOX.0 - 20.0;
    let _ = writeln!(
        text,
        "<a href=\"#stage-{0}\"><title>{0}</title><rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{1}\" height=\"{2}\" rx=\"5\" fill=\"#ffffff\" stroke=\"{stroke}\" stroke-width=\"1.8\"/><text x=\"{3:.0}\" y=\"{4:.0}\" font-size=\"14\" font-weight=\"600\" fill=\"#1a1a1a\">{7}</text><text x=\"{3:.0}\" y=\"{5:.0}\" font-size=\"12\" fill=\"#595959\">{6}</text></a>",
        escaped(name),
        BOX.0,
        BOX.1,
        x + 11.0,
        y + 21.0,
        y + 39.0,
        escaped(&fitted(&format!("{note}{kind}"), 12.0, room).shown),
        // Bold letters are a tenth wider.
        escaped(&fitted(name, 14.0, room / 1.1).shown),
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::{Edge, Manifest};

    fn nodes() -> Vec<Node> {
        let node = |name: &str, kind: &str, after: &[&str]| Node {
            name: name.to_string(),
            shown_as: kind.to_string(),
            stages: after.iter().map(|name| Edge::to(name)).collect(),
            ..Node::default()
        };
        vec![
            node("score", "score", &[]),
            node("first", "direction", &["score"]),
            node("steer", "steer", &["first", "first"]),
        ]
    }

    #[test]
    fn the_same_edges_in_every_form() {
        let manifest = Manifest {
            graph: nodes(),
            ..Manifest::default()
        };
        assert_eq!(
            mermaid(&manifest.graph),
            "flowchart LR\n    s0[\"score\"]\n    s1[\"first<br/>direction\"]\n    s2[\"steer\"]\n    s0 --> s1\n    s1 --> s2\n"
        );
        assert!(graphviz(&manifest.graph).contains("\"first\" -> \"steer\";"));
        let svg = svg(&FinishedRun::of(Path::new(""), manifest));
        assert_eq!(svg.matches("<path").count(), 2);
        assert_eq!(svg.matches("<rect").count(), 3);
    }
}

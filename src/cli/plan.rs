//! `dial plan`: the graph, what would run and why, and what it would cost.

use clap::Args;
use serde_json::json;

use crate::plan::{Fetch, Plan, PlannedStage, Selection, Status};

use super::console::duration;
use super::tables::grid;
use super::waiting::Waiting;
use super::{Failure, Format, StudyArguments, open, print, print_json};

#[derive(Args)]
pub(super) struct PlanArguments {
    #[command(flatten)]
    study: StudyArguments,
}

pub(super) fn plan(arguments: &PlanArguments) -> Result<(), Failure> {
    let (opened, threads) = open(&arguments.study, Fetch::Never, &Selection::All)?;
    let waiting = Waiting::for_("looking for what is cached");
    let plan = Plan::new(&opened.study, &opened.inputs, &opened.cache, threads)?;
    drop(waiting);
    match arguments.study.format {
        Format::Json => print_json(&as_json(&plan, &opened.inputs.findings)),
        Format::Text => print(&as_text(&plan, &opened.inputs.findings)),
    }
}

fn as_text(plan: &Plan, findings: &[String]) -> String {
    let rows = plan.stages.iter().map(|stage| {
        vec![
            stage.name.clone(),
            stage.kind.to_string(),
            stage.after.join(", "),
            what(stage),
            stage.computes_at_most().to_string(),
            stage.cost.equivalent_forward_passes.to_string(),
        ]
    });
    let header = [
        "stage",
        "kind",
        "after",
        "would",
        "cells at most",
        "forward passes of a script",
    ];
    let table = grid(&header, rows.collect());
    let unfetched = plan
        .stages
        .iter()
        .any(|s| matches!(s.status, Status::Unfetched { .. }));
    let waiting = plan.stages.iter().any(|s| s.status != Status::Cached);
    let time = if unfetched {
        "models that are not on this machine are fetched by `dial run`; until then `layer = \"all\"` counts no layers\n".to_string()
    } else if waiting {
        format!(
            "about {} on this machine, roughly\n",
            duration(plan.seconds())
        )
    } else {
        "nothing to compute\n".to_string()
    };
    let notes: String = findings.iter().map(|f| format!("note: {f}\n")).collect();
    format!(
        "{table}\nequivalent forward passes: {}\n{time}{notes}",
        plan.equivalent_forward_passes()
    )
}

fn what(stage: &PlannedStage) -> String {
    match &stage.status {
        Status::Cached => "cached".to_string(),
        Status::Run {
            at_most: 0, reason, ..
        } => format!("run, all cells cached; {reason}"),
        Status::Run {
            missing,
            at_most,
            reason,
        } if missing == at_most => format!("run, {missing} cells missing; {reason}"),
        Status::Run {
            missing,
            at_most,
            reason,
        } => format!("run, {missing} cells missing, {at_most} at most; {reason}"),
        Status::Waits { stages } if stage.cost.cells_at_most == 0 => {
            format!("waits for {}", stages.join(", "))
        }
        Status::Waits { stages } => format!(
            "waits for {} (at most {} cells)",
            stages.join(", "),
            stage.cost.cells_at_most
        ),
        Status::Unfetched { models } => format!("run, once fetched: {}", models.join(", ")),
    }
}

fn as_json(plan: &Plan, findings: &[String]) -> serde_json::Value {
    let stages: Vec<serde_json::Value> = plan
        .stages
        .iter()
        .map(|stage| {
            let status = match &stage.status {
                Status::Cached => "cached",
                Status::Run { .. } => "run",
                Status::Waits { .. } => "waits",
                Status::Unfetched { .. } => "unfetched",
            };
            json!({
                "name": stage.name,
                "kind": stage.kind,
                "after": stage.after,
                "status": status,
                "reason": what(stage),
                "cells_at_most": stage.cost.cells_at_most,
                "computes_at_most": stage.computes_at_most(),
                "equivalent_forward_passes": stage.cost.equivalent_forward_passes,
            })
        })
        .collect();
    json!({
        "stages": stages,
        "findings": findings,
        "equivalent_forward_passes": plan.equivalent_forward_passes(),
        "estimated_seconds": plan.seconds(),
    })
}

//! `dial plan`: the graph, what would run and why, and what it would cost.

use clap::Args;
use serde_json::{Value as Json, json};

use crate::plan::{Fetch, Plan, PlannedStage, Selection, Status};
use crate::stages::Inputs;

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
        Format::Json => print_json(&as_json(&plan, &opened.inputs)),
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
    let mut statuses = plan.stages.iter().map(|stage| &stage.status);
    let time = if statuses
        .clone()
        .any(|s| matches!(s, Status::Unfetched { .. }))
    {
        "models that are not on this machine are fetched by `dial run`; until then `layer = \"all\"` counts no layers".to_string()
    } else if statuses.all(|status| *status == Status::Cached) {
        "nothing to compute".to_string()
    } else {
        format!(
            "about {} on this machine, roughly",
            duration(plan.seconds())
        )
    };
    let notes: String = findings.iter().map(|f| format!("note: {f}\n")).collect();
    let passes = plan.equivalent_forward_passes();
    format!("{table}\nequivalent forward passes: {passes}\n{time}\n{notes}")
}

fn what(stage: &PlannedStage) -> String {
    let cells_at_most = stage.cost.cells_at_most;
    match &stage.status {
        Status::Cached => "cached".to_string(),
        Status::Run {
            missing,
            at_most,
            reason,
        } => match at_most {
            0 => format!("run, all cells cached; {reason}"),
            most if most == missing => format!("run, {missing} cells missing; {reason}"),
            most => format!("run, {missing} cells missing, {most} at most; {reason}"),
        },
        Status::Waits { stages } => match cells_at_most {
            0 => format!("waits for {}", stages.join(", ")),
            most => format!("waits for {} (at most {most} cells)", stages.join(", ")),
        },
        Status::Unfetched { models } => format!("run, once fetched: {}", models.join(", ")),
    }
}

fn as_json(plan: &Plan, inputs: &Inputs) -> Json {
    let stages = plan.stages.iter().map(|stage| {
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
    });
    json!({
        "stages": stages.collect::<Json>(),
        "findings": inputs.findings,
        "score": inputs.measures,
        "equivalent_forward_passes": plan.equivalent_forward_passes(),
        "estimated_seconds": plan.seconds(),
    })
}

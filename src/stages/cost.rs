//! `cost`: what steering does to prompts that it is not meant for: how far the next token moves, how improbable texts become, how many questions are
//! answered wrong; beside what it does where it is meant to, and beside random directions.
//!
//! ```text
//! data      what is measured, on which prompts
//! check     what is told before anything runs, and what it will cost
//! items     what a model is asked for that, and what is read of it
//! grid      all of it under everything that is done: cells and their values
//! measure   what the values say of all prompts
//! tables    what comes out
//! figures   what is gained against what is lost
//! told      what people are told of it
//! ```

mod check;
mod data;
mod figures;
mod grid;
mod items;
mod measure;
mod tables;
mod told;

use std::sync::Arc;

use crate::model::ModelHandle;

use super::action::Line;
use super::declare::Table;
use super::generate::Steering;
use super::parameters::Models;
use super::place::Place;
use super::{random, sweep};

use super::prelude::*;

use data::Measures;
use grid::{Bench, Item, Point};
use items::Asked;
use measure::{Accuracy, Loss, Moved, Scores};
use tables::{Measured, Prompts, Row};

pub(super) static KIND: Kind = Kind {
    figures: Some(figures::figures),
    ..super::kind::<Costs>(
        "cost",
        1,
        Product::Costs,
        "what a direction changes where it should change nothing, against what it does",
        &told::TOLD,
    )
};

parameters! {
    struct Costs {
        /// Models that are steered, in the order of the table.
        model: Models,
        steering: Steering,
        /// How many random directions act in the place of the learned one.
        random: usize = 5,
        measures: Measures,
        settings: ReadsOne,
    }
}

impl Stage for Costs {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        let names = self.model.iter().map(|name| name.value.clone());
        Forecast {
            models: names.collect(),
            has_alpha: self.steering.action.mode.has_alpha(),
            ..Forecast::default()
        }
        .reading(&self.settings)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let Steering {
            direction,
            places,
            action,
            ..
        } = &self.steering;
        places.check(direction, &self.model, inputs, problems);
        action.check(&self.model, inputs, problems);
        for of in self.measures.prompts() {
            of.check(inputs, problems);
        }
        self.check_plain(problems);
        self.check_kl(problems);
        self.check_context(inputs, problems);
        if let Some(Table(questions)) = &self.measures.choices {
            questions.check(inputs, problems);
        }
        if let Some(Table(effect)) = &self.measures.effect {
            let prompts = &effect.of.prompts;
            self.settings.check_answers(prompts, inputs, problems);
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Steering {
            direction,
            places,
            action,
            ..
        } = &self.steering;
        let lines = places.count(direction, &self.model, inputs);
        let runs = product(&[lines, 1 + self.random, action.count()]);
        let runs = runs.saturating_add(self.model.len() as u64);
        let read = self.cost_of_reading(runs, inputs);
        let prompts: usize = self.measures.prompts().map(|of| of.count(inputs)).sum();
        let conditioned = match &action.when {
            Some(_) => Cost::of_cells(product(&[prompts, self.model.len()])),
            None => Cost::default(),
        };
        read.and(self.cost_of_answers(inputs)).and(conditioned)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let models = inputs.models_named(&self.model)?;
        let mut lines = Vec::new();
        for model in &models {
            lines.push(self.lines(model, inputs)?);
        }
        let mut findings = Vec::new();
        let mut found = Vec::new();
        for (model, lines) in models.iter().zip(&lines) {
            let points = self.points(lines);
            let bench = Bench {
                model,
                steering: &self.steering,
                settings: &self.settings,
                points: &points,
            };
            let (measured, prompts, told) = self.measured(&bench, inputs, evaluator)?;
            let told = told.into_iter();
            findings.extend(told.map(|told| format!("model `{}`: {told}", model.name)));
            for selection in self.steering.selections() {
                let told = sweep::findings(selection, &[*model], &self.settings)?;
                findings.extend(told.into_iter().filter(|_| self.is_in_chat()));
            }
            found.push((&model.name, points, measured, prompts));
        }
        let mut rows = Vec::new();
        for (model, points, measured, prompts) in &found {
            for (point, measured) in points.iter().zip(measured) {
                rows.push(Row {
                    place: self.place(model, *point),
                    measured,
                    prompts,
                });
            }
        }
        let tables = tables::tables(&rows, self.settings.main())?;
        Ok(Output {
            findings: super::distinct(findings),
            ..Output::of(tables)
        })
    }
}

/// What was measured at each point, on which prompts, and what a reader should know of that.
type Found<'a> = (Vec<Measured>, Prompts<'a>, Vec<String>);

impl Costs {
    /// Whether any measure asks in the chat.
    fn is_in_chat(&self) -> bool {
        self.measures.prompts().count() > self.measures.plain().count()
    }

    /// The learned directions at the places where they act in a model, and behind them random ones.
    fn lines(&self, model: &ModelHandle, inputs: &Inputs) -> Result<Vec<Line>, StageError> {
        let Steering {
            direction,
            places,
            action,
            ..
        } = &self.steering;
        let directions = &inputs.stage(direction)?.directions;
        let acting = action.acting(inputs)?;
        let (sets, n_layers) = (Arc::from([]), model.config().n_layers);
        let mut lines = places.lines(directions, &acting, &sets, n_layers)?;
        let are_layers_named = places.layer.is_some();
        let beside =
            random::lines_beside(directions, (action, &acting), are_layers_named, self.random)?;
        lines.extend(places.placed(beside, &acting, &sets, n_layers));
        Ok(lines)
    }

    /// What is done: nothing, then each line at each α.
    fn points<'a>(&self, lines: &'a [Line]) -> Vec<Point<'a>> {
        let alphas = || self.steering.action.alpha.values().copied();
        let of_line = |line: &'a Line| {
            alphas().map(move |alpha| Point {
                line: Some(line),
                alpha,
            })
        };
        let unedited = Point {
            line: None,
            alpha: 0.0,
        };
        let edited = lines.iter().flat_map(of_line);
        std::iter::once(unedited).chain(edited).collect()
    }

    fn place<'a>(&'a self, model: &'a str, point: Point<'a>) -> Place<'a> {
        Place {
            model,
            line: point.line,
            position: self.steering.position().filter(|_| point.line.is_some()),
            alpha: point.alpha,
        }
    }

    /// Everything that is measured on a model.
    fn measured<'a>(
        &self,
        bench: &Bench<'_>,
        inputs: &'a Inputs,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Found<'a>, StageError> {
        let Measures {
            kl,
            texts,
            answers,
            choices,
            effect,
        } = &self.measures;
        let mut measured = vec![Measured::default(); bench.points.len()];
        let (mut prompts, mut told) = (Prompts::default(), Vec::new());
        if let Some(Table(kl)) = kl {
            let Asked { items, findings } = items::of_kl(kl, bench, inputs, evaluator)?;
            for (read, at) in bench.read(&items, evaluator)?.iter().zip(&mut measured) {
                at.kl = Some(Moved::of(read)?);
            }
            prompts.kl = prompts_of(&items);
            told.extend(findings);
        }
        if let Some(Table(texts)) = texts {
            let Asked { items, findings } = items::of_texts(texts, bench, inputs)?;
            let losses = losses(&items, bench, evaluator)?;
            for (loss, at) in losses.into_iter().zip(&mut measured) {
                at.texts = Some(loss);
            }
            prompts.texts = prompts_of(&items);
            told.extend(findings);
        }
        if let Some(Table(answers)) = answers {
            let Asked { items, findings } = items::of_answers(answers, bench, inputs, evaluator)?;
            let losses = losses(&items, bench, evaluator)?;
            for (loss, at) in losses.into_iter().zip(&mut measured) {
                at.answers = Some(loss);
            }
            prompts.answers = prompts_of(&items);
            told.extend(findings);
        }
        if let Some(Table(questions)) = choices {
            let (Asked { items, .. }, questions) = items::of_questions(questions, bench, inputs)?;
            let read = bench.read(&items, evaluator)?;
            for (values, at) in read.iter().zip(&mut measured) {
                at.choices = Some(Accuracy::of(values, &read[0], &questions)?);
            }
            prompts.choices = prompts_of(&items);
        }
        if let Some(Table(effect)) = effect {
            let asked = items::of_effect(effect, bench, (&self.settings, inputs))?;
            let (Asked { items, .. }, readings) = asked;
            prompts.effect = prompts_of(&items);
            let read = bench.read(&items, evaluator)?;
            let rule = (self.settings.main(), &readings);
            for (values, at) in read.iter().zip(&mut measured) {
                at.effect = Some(Scores::of((values, &read[0]), rule, &prompts.effect)?);
            }
        }
        Ok((measured, prompts, told))
    }
}

fn prompts_of<'a>(items: &[Item<'a>]) -> Vec<&'a crate::prompts::Prompt> {
    items.iter().map(|item| item.prompt).collect()
}

/// The cross-entropy of texts at each point.
fn losses(
    items: &[Item<'_>],
    bench: &Bench<'_>,
    evaluator: &mut dyn Evaluate,
) -> Result<Vec<Loss>, StageError> {
    let tokens: Vec<usize> = items.iter().map(Item::predicted).collect();
    let read = bench.read(items, evaluator)?;
    let of = |values| Loss::of(values, &read[0], &tokens);
    read.iter().map(|values| of(values)).collect()
}

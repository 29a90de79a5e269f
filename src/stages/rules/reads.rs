//! Which rules a stage reads, as its fields say it, and what these read on a model, side by side.

use std::ops::Deref;
use std::sync::Arc;

use serde_json::json;

use crate::model::{ModelHandle, Readout, Value};
use crate::prompts::Prompt;
use crate::spec::{Fields, Problems};
use crate::stages::declare::{Declared, Field, KeyParts, Parameter};
use crate::stages::parameters::Names;
use crate::stages::settings::Settings;
use crate::stages::{Cost, Inputs, Name, Needs, StageError};

use super::{Gauge, How, Rule, gauge};

const SEVERAL: &str = "The score rules that are read, by name; `refused`, which is `[score]` itself, where left out. The main table is of the \
     first; each other has a table of its own, called as the rule.";
const ONE: &str =
    "The score rule that is read, by name; `refused`, which is `[score]` itself, where left out.";

/// The rules that a stage reads, at least one, and what is said for all stages.
pub(crate) struct Reads {
    settings: Settings,
    /// The main table is of the first.
    pub(in crate::stages) rules: Vec<Arc<Rule>>,
}

impl Deref for Reads {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Reads {
    fn of(
        fields: &mut Fields<'_, '_>,
        declared: &Declared,
        study: &Settings,
        names: Option<Vec<Name>>,
    ) -> Option<Self> {
        let settings = Settings::read(fields, declared, study);
        let rules = match names {
            None => vec![Some(Arc::new(study.rules.default_rule()))],
            Some(names) => {
                let named = |name: &Name| study.rules.named(name, fields.problems);
                names.iter().map(named).collect()
            }
        };
        let rules: Option<Vec<Arc<Rule>>> = rules.into_iter().collect();
        Some(Reads {
            settings: settings?,
            rules: rules?,
        })
    }

    /// The rule that the main table is of.
    pub(in crate::stages) fn main(&self) -> &Arc<Rule> {
        &self.rules[0]
    }

    /// The rules' names, for stages behind this one.
    pub(in crate::stages) fn names(&self) -> Vec<String> {
        self.rules.iter().map(|rule| rule.name.clone()).collect()
    }

    /// What the rules read on a model.
    ///
    /// # Errors
    /// As [`Rule::gauge`].
    pub(in crate::stages) fn on(&self, model: &ModelHandle) -> Result<Readings, StageError> {
        let gauges = self.rules.iter().map(|rule| rule.gauge(model));
        Ok(Readings::new(gauges.collect::<Result<_, _>>()?))
    }

    /// What rows of scores cost on some models: upper bounds, of models that are not here by the texts of the rules.
    pub(in crate::stages) fn cost(&self, rows: u64, models: &[Name], inputs: &Inputs) -> Cost {
        let of_model = |model: &Name| {
            // To open a tokenizer takes longer than all else of a plan, and first tokens are one whatever it is.
            if self.rules.iter().all(|rule| rule.is_of_first_tokens()) {
                return [self.rules.len(), 1, self.rules.len()];
            }
            let model = inputs.models.get(&model.value);
            let readings = model.and_then(|model| self.on(model).ok());
            readings.map_or_else(|| self.expected(), |readings| readings.per_row())
        };
        let most = models
            .iter()
            .map(of_model)
            .reduce(|a, b| std::array::from_fn(|at| a[at].max(b[at])));
        let [cells, passes, tokens] = most.unwrap_or([1; 3]);
        Cost {
            cells_at_most: rows.saturating_mul(cells as u64),
            equivalent_forward_passes: rows.saturating_mul(passes as u64),
            token_passes: rows.saturating_mul(tokens as u64),
        }
    }

    /// Cells, forward passes and tokens of a row, where no model says which tokens texts become.
    fn expected(&self) -> [usize; 3] {
        let cells = |rule: &Arc<Rule>| match &rule.how {
            How::FirstToken { .. } | How::LogOdds { .. } => 1,
            How::Continuation { yes, no, .. } => yes.len() + no.len(),
            How::MultipleChoice { choices, .. } => choices.len(),
        };
        [self.rules.iter().map(cells).sum(); 3]
    }

    /// Checks that every prompt of a set says which choice is right, where a rule asks its file for that.
    pub(in crate::stages) fn check_answers(
        &self,
        prompts: &Name,
        inputs: &Inputs,
        problems: &mut Problems,
    ) {
        let Some(set) = inputs.prompts.get(&prompts.value) else {
            return;
        };
        for rule in &self.rules {
            let wrong = set
                .prompts
                .iter()
                .filter_map(|prompt| rule.answer(prompt).err());
            let wrong: Vec<StageError> = wrong.collect();
            if let Some(first) = wrong.first() {
                let (n, all) = (wrong.len(), set.prompts.len());
                problems
                    .error_at(&prompts.at, first.to_string())
                    .label(format!("so it is with {n} of {all} prompts"));
            }
        }
    }
}

/// A list of rules, or one.
impl Parameter for Reads {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self> {
        let names = match fields.node("read") {
            None => None,
            Some(_) => Some(fields.optional::<Names>("read")?.0),
        };
        Reads::of(fields, declared, study, names)
    }

    /// Of the default rule alone the key is what it was before there were others. What is not read is not in it.
    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        self.settings.add_key(name, key);
        if let [rule] = self.rules.as_slice()
            && rule.is_default()
        {
            return;
        }
        let mut read = KeyParts::new();
        for rule in &self.rules {
            match (rule.is_default(), rule.parameters.as_object()) {
                (true, Some(parameters)) => read.extend(parameters.clone()),
                _ => drop(read.insert(rule.name.clone(), rule.parameters.clone())),
            }
        }
        if let Some(own) = key.get_mut(name) {
            own["score"] = read.into();
        }
        key.insert("read".to_string(), json!(self.names()));
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.settings.add_needs(needs);
        for rule in &self.rules {
            if !needs.rules.iter().any(|known| known.name == rule.name) {
                needs.rules.push(Arc::clone(rule));
            }
        }
    }

    fn list(declared: &Declared) -> Vec<Field> {
        let mut fields = Settings::list(declared);
        fields.push(Field::optional::<Names>("read", SEVERAL));
        fields
    }
}

/// The one rule that a stage reads, and what is said for all stages.
pub(crate) struct ReadsOne(Reads);

impl Deref for ReadsOne {
    type Target = Reads;

    fn deref(&self) -> &Reads {
        &self.0
    }
}

impl Parameter for ReadsOne {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self> {
        let name = match fields.node("read") {
            None => None,
            Some(_) => Some(vec![fields.optional::<Name>("read")?]),
        };
        Reads::of(fields, declared, study, name).map(Self)
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        self.0.add_key(name, key);
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.0.add_needs(needs);
    }

    fn list(declared: &Declared) -> Vec<Field> {
        let mut fields = Settings::list(declared);
        fields.push(Field::optional::<Name>("read", ONE));
        fields
    }
}

/// A rule of which another stage has read the scores; the first that it has read where left out.
#[derive(Clone, Debug)]
pub(crate) struct OfRule(pub(in crate::stages) Option<Name>);

impl OfRule {
    pub(in crate::stages) fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|name| name.value.as_str())
    }

    /// Checks that a stage reads the rule.
    pub(in crate::stages) fn check(&self, stage: &Name, inputs: &Inputs, problems: &mut Problems) {
        let read = inputs
            .forecast(stage)
            .map_or(&[][..], |forecast| &forecast.rules);
        let Some(name) = &self.0 else { return };
        if !read.is_empty() && !read.contains(&name.value) {
            problems
                .error_at(
                    &name.at,
                    format!("stage `{stage}` does not read the score rule `{name}`"),
                )
                .label(format!("it reads `{}`", read.join("`, `")))
                .related(&stage.at, "named here")
                .help(format!(
                    "add `{name}` to the field `read` of stage `{stage}`"
                ));
        }
    }
}

impl Parameter for OfRule {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self> {
        let Some(_) = fields.node(declared.name) else {
            return Some(OfRule(None));
        };
        let name = fields.optional::<Name>(declared.name)?;
        study.rules.named(&name, fields.problems)?;
        Some(OfRule(Some(name)))
    }

    /// Where it is left out there was none to name before there were several.
    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        if let Some(rule) = self.name() {
            key.insert(name.to_string(), rule.into());
        }
    }

    fn list(declared: &Declared) -> Vec<Field> {
        vec![Field::optional::<Name>(declared.name, declared.about)]
    }
}

/// What some rules read on a model: the cells of a row of scores, and where what they give stands among the row's numbers.
#[derive(Clone, Debug)]
pub(in crate::stages) struct Readings {
    gauges: Vec<Gauge>,
    /// Of all rules: those of the last token before those of texts.
    pub(in crate::stages) readouts: Vec<Readout>,
    /// By readout, where its numbers begin.
    starts: Vec<usize>,
    /// By rule, where its numbers begin.
    of_rules: Vec<usize>,
    /// How many numbers a row has.
    pub(in crate::stages) width: usize,
}

impl Readings {
    fn new(gauges: Vec<Gauge>) -> Self {
        let (mut placed, mut of_rules, mut width) = (Vec::new(), Vec::new(), 0);
        for gauge in &gauges {
            of_rules.push(width);
            for readout in &gauge.readouts {
                placed.push((readout.clone(), width));
                width += count(readout);
            }
        }
        // What is read at the last token is one pass where it stands side by side.
        placed.sort_by_key(|(readout, _)| is_text(readout));
        let (readouts, starts) = placed.into_iter().unzip();
        Readings {
            readouts,
            gauges,
            starts,
            of_rules,
            width,
        }
    }

    /// Of one readout that gives the score.
    #[cfg(test)]
    pub(in crate::stages) fn plain(readout: Readout) -> Self {
        Readings::new(vec![Gauge::of_one(readout)])
    }

    /// Puts what a readout gave among the numbers of its row.
    ///
    /// # Errors
    /// A value of another kind.
    pub(in crate::stages) fn put(
        &self,
        readout: usize,
        value: Value,
        row: &mut [f64],
    ) -> Result<(), StageError> {
        let numbers = gauge::numbers(value)?;
        let start = self.starts.get(readout).copied().unwrap_or_default();
        for (place, number) in row.iter_mut().skip(start).zip(numbers) {
            *place = number;
        }
        Ok(())
    }

    /// The score of a rule, by its place, of a row's numbers.
    ///
    /// # Errors
    /// As [`Rule::answer`].
    pub(in crate::stages) fn score(
        &self,
        (at, rule): (usize, &Rule),
        row: &[f64],
        prompt: &Prompt,
    ) -> Result<f64, StageError> {
        let (gauge, start) = (&self.gauges[at], self.of_rules[at]);
        let numbers = &row[start..start + gauge.width()];
        Ok(gauge.score(numbers, rule.answer(prompt)?))
    }

    /// Whether a row is one number, which is its score.
    pub(in crate::stages) fn is_plain(&self) -> bool {
        matches!(self.gauges.as_slice(), [gauge] if gauge.is_plain())
    }

    /// The scores of rows whose cells stand side by side, by rule.
    ///
    /// # Errors
    /// A value of another kind; as [`Rule::answer`].
    pub(in crate::stages) fn scores<'p>(
        &self,
        rules: &[Arc<Rule>],
        values: impl IntoIterator<Item = Value>,
        prompts: impl IntoIterator<Item = &'p Prompt>,
    ) -> Result<Vec<Vec<f64>>, StageError> {
        let mut values = values.into_iter();
        let mut scores = vec![Vec::new(); rules.len()];
        let mut row = vec![f64::NAN; self.width];
        for prompt in prompts {
            for readout in 0..self.readouts.len() {
                let missing = || StageError::Internal("a score was not read".to_string());
                self.put(readout, values.next().ok_or_else(missing)?, &mut row)?;
            }
            for (at, rule) in rules.iter().enumerate() {
                scores[at].push(self.score((at, rule), &row, prompt)?);
            }
        }
        Ok(scores)
    }

    /// Cells, forward passes of a script, and tokens of a row.
    fn per_row(&self) -> [usize; 3] {
        let tokens = |readout: &Readout| match readout {
            Readout::Continuation(ids) => ids.len(),
            _ => 1,
        };
        let texts = self.readouts.iter().filter(|r| is_text(r)).count();
        // Whatever is read at the last token, a script reads off one pass.
        let passes = texts + usize::from(texts < self.readouts.len());
        let tokens = self.readouts.iter().map(tokens).sum();
        [self.readouts.len(), passes, tokens]
    }
}

/// Whether the tokens of a text are read, and not what follows the last one.
fn is_text(readout: &Readout) -> bool {
    matches!(readout, Readout::Continuation(_))
}

/// How many numbers a readout gives.
fn count(readout: &Readout) -> usize {
    match readout {
        Readout::LogProbabilities(ids) => ids.len(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::gauge::Made;
    use super::*;

    /// Two texts against one, and a choice of two at one place: the texts are read last, and their numbers stand first.
    #[test]
    fn numbers_stand_by_rule_however_they_are_read() {
        let text = |token: u32| Readout::Continuation([token].into());
        let sides = Gauge {
            readouts: vec![text(1), text(2), text(3)],
            made: Made::OfSides {
                yes: 2,
                divisors: vec![1.0; 3],
            },
        };
        let choices = Gauge {
            readouts: vec![Readout::LogProbabilities(Arc::new(vec![4, 5]))],
            made: Made::OfChoices {
                divisors: vec![1.0; 2],
            },
        };
        let readings = Readings::new(vec![sides, choices]);
        assert_eq!((readings.width, readings.is_plain()), (5, false));
        assert!(matches!(readings.readouts[0], Readout::LogProbabilities(_)));
        let mut row = [f64::NAN; 5];
        let values = [
            Value::LogProbabilities(vec![-1.0, -3.0]),
            Value::Score(-10.0),
            Value::Score(-20.0),
            Value::Score(-30.0),
        ];
        for (at, value) in values.into_iter().enumerate() {
            readings.put(at, value, &mut row).unwrap();
        }
        assert_eq!(row, [-10.0, -20.0, -30.0, -1.0, -3.0]);
        let score = |gauge: usize| {
            let start = readings.of_rules[gauge];
            let numbers = &row[start..];
            readings.gauges[gauge].score(numbers, 1)
        };
        assert!((score(0) - (20.0 + (-10.0_f64).exp().ln_1p())).abs() < 1e-9);
        assert_eq!(score(1), -2.0);
        assert_eq!(readings.per_row(), [4, 4, 4]);
        let other = readings.put(0, Value::Generation(vec![1]), &mut row);
        assert!(other.unwrap_err().to_string().contains("expected a score"));
    }
}

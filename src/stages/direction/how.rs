//! What a study says of how a direction is made of its groups, and of which of their prompts.

use std::collections::HashMap;

use serde_json::json;

use crate::prompts::PromptSet;
use crate::spec::Fields;
use crate::stages::declare::{Declared, Field, KeyParts, Parameter};
use crate::stages::parameters::{Fraction, Penalty};
use crate::stages::settings::Settings;
use crate::stages::{Name, StageError};
use crate::stats;

use super::Groups;
use super::method::{Centring, How, Method};

/// A method, and which prompts try what it has made.
pub(super) struct Made {
    pub(super) how: How,
    /// The column of the prompt file whose value a pair has in common.
    pair: Option<Name>,
    /// The share held out, and the seed that says which.
    held_out: Option<(f64, u64)>,
}

/// The groups, divided.
pub(super) struct Divided {
    /// What the direction is made of.
    pub(super) made_of: Groups,
    /// What of these belongs together, A before B: prompts of one name are on one side of every division.
    pub(super) units: Vec<String>,
    pub(super) held_out: Option<HeldOut>,
}

/// Prompts that the direction is tried on.
pub(super) struct HeldOut {
    pub(super) groups: Groups,
    pub(super) units: Vec<String>,
    pub(super) seed: u64,
}

const METHOD: &str = "mean_difference";

impl Parameter for Made {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        let method = fields.or::<Method>("method", &json!(METHOD));
        let is = |wanted: Method| method == Some(wanted);
        let mut how = How::means();
        if is(Method::Pca) {
            how.centring = fields.or("centring", &json!("pair"))?;
        }
        if is(Method::Logistic) {
            how.penalty = fields.or::<Penalty>("penalty", &json!(1.0))?.value;
        }
        how.method = method?;
        let held_out = match fields.node("held_out") {
            None => None,
            Some(_) => {
                let fraction = fields.optional::<Fraction>("held_out");
                let seed = fields.or::<u64>("seed", &json!(0));
                Some((fraction?.value, seed?))
            }
        };
        let pair = match how.is_paired() || held_out.is_some() {
            true => fields.optional("pair"),
            false => None,
        };
        Some(Made {
            how,
            pair,
            held_out,
        })
    }

    /// Nothing of what is not said: keys are what they were before it could be.
    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        if self.how.method != Method::MeanDifference {
            key.insert("method".to_string(), name_of(self.how.method));
        }
        if self.how.method == Method::Pca {
            key.insert("centring".to_string(), name_of(self.how.centring));
        }
        if self.how.method == Method::Logistic {
            key.insert("penalty".to_string(), self.how.penalty.into());
        }
        if let Some(pair) = &self.pair {
            key.insert("pair".to_string(), pair.value.as_str().into());
        }
        if let Some((fraction, seed)) = self.held_out {
            key.insert("held_out".to_string(), json!([fraction, seed]));
        }
    }

    fn list(_: &Declared) -> Vec<Field> {
        let default = |default: serde_json::Value, field: Field| Field {
            default: Some(default),
            ..field
        };
        vec![
            default(
                json!(METHOD),
                Field::optional::<Method>("method", "How a direction is made of A and B."),
            ),
            default(
                json!("pair"),
                Field::optional::<Centring>(
                    "centring",
                    "What is taken off the activations before their first principal component is; with `method = \"pca\"`.",
                ),
            ),
            default(
                json!(1.0),
                Field::optional::<Penalty>(
                    "penalty",
                    "λ of Σ log(1 + exp(−y(w·x + b))) + λ/2 ‖w‖², x the activations less their mean, over the root mean square of their lengths; with \
                     `method = \"logistic\"`.",
                ),
            ),
            Field::optional::<Fraction>(
                "held_out",
                "The share of A and of B that makes no direction, and tries them: how well h·v tells A from B there is the table `detection`.",
            ),
            default(
                json!(0),
                Field::optional::<u64>("seed", "Which prompts that are; with `held_out`."),
            ),
            Field::optional::<Name>(
                "pair",
                "The column of the prompt file that says which prompts belong together: those of one value stand on one side of `held_out`, and are a \
                 pair of `method = \"pca\"`. Without it the first of A and the first of B are a pair there, and so on.",
            ),
        ]
    }
}

fn name_of<T: crate::spec::Choice>(choice: T) -> serde_json::Value {
    choice.name().into()
}

impl Made {
    /// Whether it is the difference of means.
    pub(super) fn is_difference(&self) -> bool {
        self.how.method == Method::MeanDifference
    }

    /// Whether which prompt is in which group plays a part.
    pub(super) fn is_of_both(&self) -> bool {
        !matches!(self.how.method, Method::MeanA | Method::MeanB)
    }

    /// What a direction of groups of that name is called.
    pub(super) fn label(&self, groups: String) -> String {
        use crate::spec::Choice;
        match self.how.method {
            Method::MeanDifference => groups,
            Method::Pca => format!("{groups}_pca_{}", self.how.centring.name()),
            method => format!("{groups}_{}", method.name()),
        }
    }

    /// The groups with pairs side by side, and what of them is held out.
    pub(super) fn divided(
        &self,
        groups: Groups,
        prompts: &PromptSet,
    ) -> Result<Divided, StageError> {
        let (groups, units) = self.in_pairs(groups, prompts)?;
        let Some((fraction, seed)) = self.held_out else {
            return Ok(Divided {
                made_of: groups,
                units,
                held_out: None,
            });
        };
        let of_half = |is_held_out: bool| {
            let side = |group: &[usize], units: &[String]| -> (Vec<usize>, Vec<String>) {
                let all = group.iter().copied().zip(units.iter().cloned());
                all.filter(|(_, unit)| stats::is_holdout(seed, unit, fraction) == is_held_out)
                    .unzip()
            };
            let (of_top, of_bottom) = units.split_at(groups.top.len());
            let (top, top_units) = side(&groups.top, of_top);
            let (bottom, bottom_units) = side(&groups.bottom, of_bottom);
            (Groups { top, bottom }, [top_units, bottom_units].concat())
        };
        let (made_of, units) = of_half(false);
        let (unseen, unseen_units) = of_half(true);
        let sides = [
            (&made_of.top, "make it of", "A"),
            (&made_of.bottom, "make it of", "B"),
            (&unseen.top, "try it on", "A"),
            (&unseen.bottom, "try it on", "B"),
        ];
        if let Some((_, what, group)) = sides.iter().find(|(side, ..)| side.is_empty()) {
            return Err(StageError::Data(format!(
                "`held_out = {fraction}` with seed {seed} leaves no prompt of {group} to {what}; take another `seed`, or larger groups"
            )));
        }
        Ok(Divided {
            made_of,
            units,
            held_out: Some(HeldOut {
                groups: unseen,
                units: unseen_units,
                seed,
            }),
        })
    }

    /// The groups, in an order in which pairs stand side by side where the method goes by pairs, and the name of what belongs together for each prompt, A
    /// before B.
    fn in_pairs(
        &self,
        groups: Groups,
        prompts: &PromptSet,
    ) -> Result<(Groups, Vec<String>), StageError> {
        let values = self.pair.as_ref().map(|name| prompts.column(&name.value));
        let id = |&i: &usize| prompts.prompts[i].id.clone();
        let value = |i: &usize| values.as_ref().and_then(|values| values[*i].clone());
        let unit = |i: &usize| value(i).unwrap_or_else(|| id(i));
        if !self.how.is_paired() {
            let units = groups.top.iter().chain(&groups.bottom).map(unit).collect();
            return Ok((groups, units));
        }
        let Some(column) = &self.pair else {
            let (a, b) = (groups.top.len(), groups.bottom.len());
            if a != b {
                return Err(StageError::Data(format!(
                    "`method = \"pca\"` goes by pairs, and A has {a} prompts and B {b}; make them alike in number, say with `pair` which belong \
                     together, or set `centring = \"grand\"`"
                )));
            }
            let of_top: Vec<String> = groups.top.iter().map(id).collect();
            let units = [of_top.clone(), of_top].concat();
            return Ok((groups, units));
        };
        let mut partners: HashMap<String, Vec<usize>> = HashMap::new();
        for i in &groups.bottom {
            let found = value(i).map(|value| partners.entry(value).or_default());
            found.into_iter().for_each(|partners| partners.push(*i));
        }
        let mut paired = Groups {
            top: Vec::new(),
            bottom: Vec::new(),
        };
        for i in &groups.top {
            let found = value(i).and_then(|value| partners.remove(&value));
            let [partner] = found.unwrap_or_default()[..] else {
                return Err(StageError::Data(format!(
                    "prompt `{}` of A is not paired with one prompt of B by the column `{column}`, which has to have a value for each pair",
                    id(i)
                )));
            };
            paired.top.push(*i);
            paired.bottom.push(partner);
        }
        if let Some(left) = partners.into_values().flatten().min() {
            return Err(StageError::Data(format!(
                "prompt `{}` of B is paired with no prompt of A by the column `{column}`",
                id(&left)
            )));
        }
        let of_top: Vec<String> = paired.top.iter().map(unit).collect();
        Ok((paired, [of_top.clone(), of_top].concat()))
    }
}

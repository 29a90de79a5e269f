//! A table as measurements under conditions, whatever its author called the columns.

use std::collections::{BTreeMap, HashMap};

use crate::report::Table;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Quantity {
    /// Of a prompt.
    Score,
    /// Mean score of a set.
    Mean,
    /// Share of a set that is refused.
    RefusalRate,
    /// Mean effect of a patch.
    MeanDelta,
}

impl Quantity {
    pub(super) const ALL: [Quantity; 4] = [
        Quantity::Score,
        Quantity::Mean,
        Quantity::RefusalRate,
        Quantity::MeanDelta,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Quantity::Score => "score",
            Quantity::Mean => "mean",
            Quantity::RefusalRate => "refusal_rate",
            Quantity::MeanDelta => "mean_delta",
        }
    }
}

/// Names of conditions, and the other names that stages' tables give them.
const CONDITIONS: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("layer", &[]),
    ("k", &[]),
    ("site", &[]),
    ("seed", &[]),
    ("alpha", &[]),
    ("set", &["split", "label"]),
    ("type", &["category"]),
    ("id", &[]),
];

/// The measurements of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Measurements {
    /// The kind of stage that it is of.
    pub(crate) kind: String,
    /// The file's name.
    pub(crate) name: String,
    pub(crate) rows: Vec<(Conditions, Quantity, f64)>,
    /// Of single prompts, until they are made into rates.
    refusals: Vec<(Conditions, f64)>,
}

/// Conditions by name.
pub(super) type Conditions = BTreeMap<&'static str, String>;

impl Measurements {
    /// Of a table with the columns of a stage's.
    pub(super) fn of(kind: &str, name: &str, table: &Table) -> Self {
        let mut measurements = Measurements {
            kind: kind.to_string(),
            name: name.to_string(),
            ..Measurements::default()
        };
        let conditions: Vec<(&'static str, Vec<String>)> = CONDITIONS
            .iter()
            .filter_map(|(name, others)| {
                let all = std::iter::once(name).chain(others.iter());
                let found = all.into_iter().find(|name| table.has(name))?;
                Some((*name, table.texts(found)))
            })
            .collect();
        let columns = quantities(table);
        let refused = table.numbers("refused");
        let is_by_prompt = table.has("id");
        for row in 0..table.height() {
            let mut at: Conditions = BTreeMap::new();
            for (name, values) in &conditions {
                if !values[row].is_empty() {
                    at.insert(name, normal(name, &values[row]));
                }
            }
            for (quantity, values) in &columns {
                if let Some(value) = values[row] {
                    measurements.push(at.clone(), *quantity, value);
                }
            }
            if let (true, Some(refused)) = (is_by_prompt, refused[row]) {
                measurements.refusals.push((at, refused));
            }
        }
        measurements.add_means_and_rates();
        measurements
    }

    pub(super) fn push(&mut self, at: Conditions, quantity: Quantity, value: f64) {
        self.rows.push((at, quantity, value));
    }

    /// From scores and refusals of single prompts the mean and the rate of each set.
    fn add_means_and_rates(&mut self) {
        let is_score =
            |(_, quantity, _): &&(Conditions, Quantity, f64)| *quantity == Quantity::Score;
        let scores = self.rows.iter().filter(is_score);
        let scores: Vec<(Conditions, f64)> = scores.map(|(at, _, v)| (at.clone(), *v)).collect();
        let refusals = std::mem::take(&mut self.refusals);
        for (quantity, values) in [(Quantity::Mean, scores), (Quantity::RefusalRate, refusals)] {
            let mut sums: BTreeMap<Conditions, (f64, f64)> = BTreeMap::new();
            for (mut at, value) in values {
                at.retain(|name, _| !matches!(*name, "id" | "type"));
                let sum = sums.entry(at).or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
            for (at, (sum, count)) in sums {
                self.push(at, quantity, sum / count);
            }
        }
    }

    /// Whether the two are of the same thing: of one kind, and both by prompt or both not.
    pub(super) fn belongs_with(&self, other: &Measurements) -> bool {
        self.kind == other.kind
            && Quantity::ALL
                .iter()
                .any(|quantity| self.has(*quantity) && other.has(*quantity))
    }

    pub(super) fn has(&self, quantity: Quantity) -> bool {
        self.rows.iter().any(|(_, q, _)| *q == quantity)
    }

    /// The conditions of a quantity that both name. A prompt is known by its id; what type it is of may be called otherwise elsewhere.
    pub(super) fn shared_conditions(
        &self,
        other: &Measurements,
        quantity: Quantity,
    ) -> Vec<&'static str> {
        let named = |side: &Measurements, name: &str| {
            let mut of_quantity = side.rows.iter().filter(|(_, q, _)| *q == quantity);
            of_quantity.any(|(at, ..)| at.contains_key(name))
        };
        let names = CONDITIONS.iter().map(|(name, _)| *name);
        let mut shared: Vec<&'static str> = names
            .filter(|name| named(self, name) && named(other, name))
            .collect();
        if shared.contains(&"id") {
            shared.retain(|name| *name != "type");
        }
        shared
    }

    /// A quantity's values by these conditions.
    ///
    /// # Errors
    /// The table's name, where several values that differ have the same conditions.
    pub(super) fn by_condition(
        &self,
        quantity: Quantity,
        conditions: &[&'static str],
    ) -> Result<HashMap<Vec<String>, f64>, String> {
        let mut values: HashMap<Vec<String>, f64> = HashMap::new();
        for (at, _, value) in self.rows.iter().filter(|(_, q, _)| *q == quantity) {
            let key = conditions
                .iter()
                .map(|name| at.get(name).cloned().unwrap_or_default());
            if let Some(earlier) = values.insert(key.collect(), *value)
                && earlier != *value
            {
                return Err(format!("`{}`", self.name));
            }
        }
        Ok(values)
    }
}

/// The columns that hold a quantity.
fn quantities(table: &Table) -> Vec<(Quantity, Vec<Option<f64>>)> {
    let names = [
        (Quantity::Score, "score"),
        (Quantity::Mean, "mean"),
        (Quantity::RefusalRate, "refusal_rate"),
        (Quantity::MeanDelta, "mean_delta"),
    ];
    let present = names.into_iter().filter(|(_, name)| table.has(name));
    present
        .map(|(quantity, name)| (quantity, table.numbers(name)))
        .collect()
}

/// A condition's value as both sides would write it: `-10` for `-10.0`, `resid_pre` for `hook_resid_pre`.
pub(super) fn normal(name: &str, value: &str) -> String {
    match name {
        "alpha" | "layer" | "seed" | "k" => value
            .parse::<f64>()
            .map_or_else(|_| value.to_string(), |number| (number + 0.0).to_string()),
        "site" => value.trim_start_matches("hook_").to_string(),
        _ => value.to_string(),
    }
}

//! What a study says of its score rules: the section `[score]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::spec::{Fields, Key, Location, Node, Problems, Spanned};
use crate::stages::declare::{Declared, Parameter};
use crate::stages::settings::{ScoreRule, Settings};

use super::{NamedRule, REFUSED, Rule, names};

/// What `[score]` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    pub(in crate::stages) default: ScoreRule,
    /// Where the default rule is written, if it is.
    pub(crate) at: Option<Location>,
    /// The study's own, by name; none of one that has a problem, which has been told.
    pub(in crate::stages) own: BTreeMap<String, Option<Arc<Rule>>>,
}

impl Rules {
    /// What a study says of its score rules.
    pub(crate) fn read(node: Option<&Node>, problems: &mut Problems) -> Self {
        let Some(node) = node else {
            return Rules::default();
        };
        let taken = node.as_table().map(|table| taken(table.iter(), problems));
        let Some(mut fields) = Fields::new(node, problems) else {
            return Rules::default();
        };
        let mut rules = Rules {
            at: Some(node.at.clone()),
            ..Rules::default()
        };
        if taken == Some(false) {
            let default = ScoreRule::read(&mut fields, &Declared::default(), &Settings::default());
            rules.default = default.unwrap_or_default();
        }
        let named = fields.named_tables();
        match taken {
            Some(false) => fields.finish(),
            // What is wrong with it has been told.
            _ => drop(fields),
        }
        for (key, node) in named {
            let rule = NamedRule::decode(&key.name, node, problems);
            // Of those of the default rule it has been told.
            let is_fine = is_key_of_default(&key.name) || names::check(key, problems);
            let rule = rule.filter(|_| is_fine);
            rules.own.insert(key.name.clone(), rule.map(Arc::new));
        }
        rules
    }

    /// The default rule.
    pub(crate) fn default_rule(&self) -> Rule {
        Rule::default_of(&self.default, self.at.clone())
    }

    /// The rule of a name; none, with the problem told, where there is none, or where that has a problem of its own.
    pub(in crate::stages) fn named(
        &self,
        name: &Spanned<String>,
        problems: &mut Problems,
    ) -> Option<Arc<Rule>> {
        if name.value == REFUSED {
            return Some(Arc::new(self.default_rule()));
        }
        if let Some(known) = self.own.get(&name.value) {
            return known.clone();
        }
        let own = self.own.keys().map(String::as_str);
        let known: Vec<&str> = std::iter::once(REFUSED).chain(own).collect();
        let listed = format!("the study has `{}`", known.join("`, `"));
        problems
            .error_at(&name.at, format!("there is no score rule `{}`", name.value))
            .suggest(&name.value, known, &listed)
            .help(format!("another rule is a table `[score.{}]`", name.value));
        None
    }
}

/// Whether a rule has a name that is a key of the default one, which is told.
fn taken<'n>(entries: impl Iterator<Item = (&'n Key, &'n Node)>, problems: &mut Problems) -> bool {
    let mut is_taken = false;
    for (key, node) in entries {
        if is_key_of_default(&key.name) && node.as_table().is_some() {
            names::tell_taken(key, "is a key of the default rule", problems);
            is_taken = true;
        }
    }
    is_taken
}

fn is_key_of_default(name: &str) -> bool {
    ["refuse", "comply", "threshold", "dtype"].contains(&name)
}

impl NamedRule {
    fn decode(name: &str, node: &Node, problems: &mut Problems) -> Option<Rule> {
        let mut fields = Fields::new(node, problems)?;
        let read = NamedRule::read(&mut fields, &Declared::default(), &Settings::default());
        fields.finish();
        read.map(|rule| Rule::named(name, rule, &node.at))
    }
}

//! What a person is told of a kind of stage beside its fields: what it computes, the tables it leaves, an example.

use super::columns::{ColumnTold, column};

/// What a person is told of a kind.
pub(crate) struct Told {
    /// What it computes, with its formula, in Markdown.
    pub(crate) computes: &'static str,
    pub(crate) tables: &'static [TableTold],
    /// A stage as a study has it. The examples of all kinds, in their order, are one study.
    pub(crate) example: &'static str,
}

/// What a person is told of a table.
pub(crate) struct TableTold {
    /// Empty for the main table.
    pub(crate) name: &'static str,
    /// What a row is, and where there need not be such a table, when there is.
    pub(crate) about: &'static str,
    /// The names of its columns in their order, with spaces between; behind the name of one that only some have stands `?`, and `<…>` stands
    /// for names that the study gives.
    pub(crate) columns: &'static str,
    /// Columns that mean something else here than elsewhere.
    pub(crate) own: &'static [ColumnTold],
}

impl TableTold {
    /// A table whose columns mean what they mean elsewhere.
    pub(crate) const fn of(name: &'static str, about: &'static str, columns: &'static str) -> Self {
        TableTold {
            name,
            about,
            columns,
            own: &[],
        }
    }

    /// The same with columns of its own.
    pub(crate) const fn but(self, own: &'static [ColumnTold]) -> Self {
        TableTold { own, ..self }
    }

    /// Its columns, and whether every such table has it.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (ColumnTold, bool)> {
        self.columns.split_whitespace().map(|word| {
            let (name, is_always) = match word.strip_suffix('?') {
                Some(name) => (name, false),
                None => (word, true),
            };
            let own = self.own.iter().find(|column| column.name == name);
            let told = own.or_else(|| column(name)).copied();
            // The tests see to it that there is none.
            let unknown = ColumnTold {
                name,
                about: "",
                unit: "",
            };
            (told.unwrap_or(unknown), is_always)
        })
    }
}

/// The columns of a sweep.
pub(super) const SWEEP: &str = "model direction seed layer site layers? position? token? alpha alpha_<n>? threshold? likeness? edited? set id split category score refused built_direction";

/// What a sweep's main table is.
pub(super) const SWEEP_TABLE: TableTold = TableTold::of(
    "",
    "a row for each model, direction, layer, α and prompt",
    SWEEP,
);

/// The same of each score rule that is read beside the first.
pub(super) const SWEEP_OF_RULE: TableTold = TableTold::of(
    "<rule>",
    "the same rows by each further score rule that is read",
    "model direction seed layer site alpha set id split category score <rule> built_direction",
);

/// The tables that describe directions.
pub(super) const MEMBERS: TableTold = TableTold::of(
    "members",
    "the prompts behind each direction, a row for each",
    "seed layer group rank id",
);
pub(super) const COSINES: TableTold = TableTold::of(
    "cosine",
    "a row for every two of its directions",
    "seed_a layer_a position_a? token_a? seed_b layer_b position_b? token_b? cosine",
);
pub(super) const DIRECTIONS: &str = "model direction seed layer site position? token? n_top n_bottom top_score_low top_score_high bottom_score_low \
     bottom_score_high pre_norm resid_norm pre_norm_over_resid_norm";
pub(super) const AGREEMENT: TableTold = TableTold::of(
    "agreement",
    "how far each classifier agrees with the score: a row for each model, direction, place, α and classifier",
    "model direction seed layer site layers? position? alpha alpha_<n>? threshold? classifier n both score_only text_only neither kappa",
);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::KINDS;

    #[test]
    fn every_column_is_told_of() {
        for kind in KINDS {
            for table in kind.told.tables {
                for (column, _) in table.columns() {
                    let (kind, table, name) = (kind.name, table.name, column.name);
                    assert!(!column.about.is_empty(), "{kind}.{table}: `{name}`");
                }
                let names: Vec<&str> = table.columns().map(|(column, _)| column.name).collect();
                let distinct: BTreeSet<&&str> = names.iter().collect();
                assert_eq!(distinct.len(), names.len(), "{names:?}");
            }
        }
    }
}

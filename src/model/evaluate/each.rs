//! Tiles whose rows start at places of their own.
//!
//! A patch of every layer and site has few cells at each place where work starts, so a tile of one place alone would be mostly padding.
//! Here a tile starts with its earliest row. The others run along from their own prompt's stream, to no purpose, until their place
//! comes; there the stored vectors take the place of what was computed. Sorted by place, neighbours are at most a layer or two apart.

use std::collections::BTreeMap;

use tch::Tensor;

use super::shape::{Entry, EntryStep, entry};
use super::tile::{Tile, operands};
use crate::model::cell::{Edit, Operation};
use crate::model::error::{ModelError, Result};
use crate::model::hooks::{HookPoint, Site};
use crate::model::transformer::{Operands, Tap, TapEdit};

impl Tile<'_> {
    /// The stream with which the earliest row starts, `[n, 1, d_model]`, and its layer. The tap gets everything that is to happen to
    /// the rows later on.
    pub(super) fn begin_each(&self, tap: &mut Tap) -> Result<(Tensor, usize)> {
        let n_layers = self.transformer.config.n_layers;
        let entries = self.cells.iter().map(|cell| entry(cell, n_layers));
        let entries: Vec<Entry> = entries
            .collect::<Option<_>>()
            .ok_or_else(|| ModelError::Internal("a row of a tile starts nowhere".to_string()))?;
        let first = entries.iter().map(|entry| entry.layer).min().unwrap_or(0);
        self.add_stored(&entries, first, tap)?;
        self.add_edits(tap)?;
        for layer in first..n_layers {
            for (step, site) in [
                (EntryStep::Attention, Site::AttnOut),
                (EntryStep::Mlp, Site::MlpOut),
            ] {
                let hook = HookPoint::block(layer, site);
                let mut rows = self.cells.iter().zip(&entries);
                if rows.all(|(cell, entry)| *entry > Entry { layer, step } || cell.replaces(hook)) {
                    tap.unused.insert(hook);
                }
            }
        }
        let stream = self
            .rows
            .entering(HookPoint::block(first, Site::ResidPre))?;
        Ok((stream, first))
    }

    /// Puts the stored vectors in the place of the computed ones where a row starts.
    fn add_stored(&self, entries: &[Entry], first: usize, tap: &mut Tap) -> Result<()> {
        let mut starting: BTreeMap<HookPoint, Vec<usize>> = BTreeMap::new();
        for (row, entry) in entries.iter().enumerate() {
            let mut add = |site| {
                let hook = HookPoint::block(entry.layer, site);
                starting.entry(hook).or_default().push(row);
            };
            if entry.layer > first {
                add(Site::ResidPre);
            }
            if entry.step > EntryStep::Attention {
                add(Site::AttnOut);
            }
            if entry.step > EntryStep::Mlp {
                add(Site::MlpOut);
            }
        }
        for (hook, rows) in starting {
            let mut stored = self.rows.entering(hook)?.f_squeeze_dim(1)?;
            let rows = self.index(&rows)?;
            if let Some(rows) = &rows {
                stored = stored.f_index_select(0, rows)?;
            }
            tap.edits.push(TapEdit {
                hook,
                position: 0,
                count: 1,
                rows,
                operation: Operation::Replace,
                operands: Operands {
                    vectors: vec![stored],
                    numbers: Vec::new(),
                },
            });
        }
        Ok(())
    }

    /// The cells' own edits. Rows with an edit of one kind at one hook point are changed together; a cell's edits of one hook point
    /// keep their order.
    fn add_edits(&self, tap: &mut Tap) -> Result<()> {
        type Kind = (HookPoint, usize, Operation);
        let mut together: BTreeMap<Kind, Vec<(usize, &Edit)>> = BTreeMap::new();
        for (row, cell) in self.cells.iter().enumerate() {
            for (number, i) in cell.interventions.iter().enumerate() {
                let earlier = &cell.interventions[..number];
                let rank = earlier.iter().filter(|e| e.hook == i.hook).count();
                let kind = (i.hook, rank, i.edit.operation());
                together.entry(kind).or_default().push((row, &i.edit));
            }
        }
        for ((hook, _, operation), members) in together {
            let rows: Vec<usize> = members.iter().map(|(row, _)| *row).collect();
            let edits: Vec<&Edit> = members.iter().map(|(_, edit)| *edit).collect();
            tap.edits.push(TapEdit {
                hook,
                position: 0,
                count: 1,
                rows: self.index(&rows)?,
                operation,
                operands: operands(self.transformer, &edits)?,
            });
        }
        Ok(())
    }

    /// Ascending rows as an index, `[n]` int64; none where they are all rows.
    fn index(&self, rows: &[usize]) -> Result<Option<Tensor>> {
        let some = (rows.len() < self.cells.len()).then_some(rows);
        let index = some.map(|rows| self.transformer.index(rows.iter().map(|&row| row as i64)));
        index.transpose()
    }
}

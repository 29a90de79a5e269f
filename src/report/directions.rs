//! The directions in a run's folder.

use std::path::PathBuf;

use crate::files;
use crate::plan::{file_of_direction, read_direction};
use crate::stages::Direction;

use super::{FinishedRun, ReportError};

/// Where a run's folder has them.
const FOLDER: &str = "directions";

impl FinishedRun {
    /// The directions that a stage left, by layer, site, position and seed; none where it makes none, or was not run.
    ///
    /// # Errors
    /// [`ReportError::Unreadable`] where a file is gone or damaged.
    pub(crate) fn directions(&self, stage: &str) -> Result<Vec<Direction>, ReportError> {
        let start = format!("{stage}.layer");
        let mut directions = Vec::new();
        for path in self.descriptions(&start)? {
            let direction = read(&path)?;
            let file = format!("{stage}.{}.json", file_of_direction(&direction));
            // A stage's name may begin as another's file does.
            if path.file_name().is_some_and(|name| *name == *file) {
                directions.push(direction);
            }
        }
        directions.sort_by_key(|d| (d.layer, d.site, d.position, d.seed));
        Ok(directions)
    }

    /// Descriptions of directions whose names begin so.
    fn descriptions(&self, start: &str) -> Result<Vec<PathBuf>, ReportError> {
        let folder = self.path.join(FOLDER);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ReportError::unreadable(&folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(ReportError::unreadable(&folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(start) && name.ends_with(".json") {
                found.push(path);
            }
        }
        Ok(found)
    }
}

fn read(description: &std::path::Path) -> Result<Direction, ReportError> {
    let tensors = description.with_extension("safetensors");
    let [said, numbers] = [description, &tensors]
        .map(|path| files::read(path, files::DATA_BYTES).map_err(ReportError::unreadable(path)));
    let wrong = || {
        let why = "it is no direction of a run, or not a whole one; run the study again, for which nothing is computed";
        ReportError::unreadable(&tensors)(why)
    };
    let direction = read_direction((numbers?, said?)).ok_or_else(wrong)?;
    let values = direction.vector.values();
    let is_sound = !values.is_empty()
        && values.iter().all(|x| x.is_finite())
        && values.iter().any(|x| *x != 0.0)
        && direction.pre_norm.is_finite();
    match is_sound {
        true => Ok(direction),
        false => Err(wrong()),
    }
}

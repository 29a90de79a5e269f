//! `dial schema`: the JSON Schema of study files, by which editors complete and check them.

use super::{Failure, print_raw};
use crate::plan;

pub(super) fn schema() -> Result<(), Failure> {
    print_raw(&text())
}

/// The schema, as it is written to a file.
pub(super) fn text() -> String {
    format!("{:#}\n", plan::schema())
}

//! One model of a study opened by itself, for what is done with a model and no stage.

use crate::model::{Memory, ModelError, ModelHandle, locate};

use super::lock::{Pins, pinned};
use super::study::{ModelSpec, Study};

/// Opens a model of a study, after the one that lends it a template, and nothing else. A hub source without a revision is opened at the commit that
/// `pins` has for it.
///
/// # Errors
/// A model that the study does not have, or that cannot be opened.
pub(crate) fn open_one_model(
    study: &Study,
    name: &str,
    pins: &Pins,
    memory: &dyn Memory,
) -> Result<ModelHandle, ModelError> {
    let spec = found(study, name)?;
    let lender = match &spec.template_from {
        None => None,
        Some(lender) => Some(open(
            &lender.value,
            found(study, &lender.value)?,
            None,
            pins,
            memory,
        )?),
    };
    open(name, spec, lender.as_ref(), pins, memory)
}

fn found<'s>(study: &'s Study, name: &str) -> Result<&'s ModelSpec, ModelError> {
    let missing = || ModelError::Unusable(format!("the run's study has no model `{name}`"));
    study.models.get(name).ok_or_else(missing)
}

fn open(
    name: &str,
    spec: &ModelSpec,
    lender: Option<&ModelHandle>,
    pins: &Pins,
    memory: &dyn Memory,
) -> Result<ModelHandle, ModelError> {
    let path = locate(&pinned(&spec.source.value, pins), &spec.folder)?;
    ModelHandle::open(name, &path, spec.dtype, lender, memory)
}

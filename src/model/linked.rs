//! What only a program that is linked with libtorch can do.
//!
//! `dial` is not linked with it, and so starts at once; `dial-engine`, which lies beside it, is, and says so before anything else. The code is
//! the same but for this table: whatever is reached through it alone, libtorch included, is no part of `dial`.

use std::ops::ControlFlow;
use std::sync::{Mutex, OnceLock, PoisonError};

use tch::{Device, Kind, Tensor};

use super::cell::{Cells, Vector};
use super::device::{self, DeviceName};
use super::error::{ModelError, Result};
use super::evaluate::Step;
use super::handle::ModelHandle;

/// A loaded model, as its [`Evaluator::evaluate`](super::Evaluator::evaluate).
pub(crate) type LoadedModel = Box<dyn FnMut(&dyn Cells, OnStep<'_>) -> Result<ControlFlow<()>>>;
type OnStep<'s> = &'s mut dyn FnMut(Step) -> ControlFlow<()>;

struct Linked {
    load: fn(&ModelHandle, DeviceName, usize) -> Result<LoadedModel>,
    random_unit_vector: fn(u64, usize) -> Result<Vector>,
    cuda_devices: fn() -> Result<i64>,
}

static LINKED: OnceLock<Linked> = OnceLock::new();

/// Says that this program is linked with libtorch.
pub fn link_libtorch() {
    LINKED.get_or_init(|| Linked {
        load: |model, device, prefix_budget_bytes| {
            let mut evaluator = model.load(device, prefix_budget_bytes)?;
            Ok(Box::new(move |cells, on_step| {
                evaluator.evaluate(cells, on_step)
            }))
        },
        random_unit_vector: draw_unit_vector,
        cuda_devices: device::cuda_devices,
    });
}

/// Fails where this program is not linked with libtorch.
///
/// # Errors
/// [`ModelError::NeedsLibtorch`].
pub(crate) fn check_linked() -> Result<()> {
    linked().map(drop)
}

fn linked() -> Result<&'static Linked> {
    #[cfg(test)]
    link_libtorch();
    LINKED.get().ok_or(ModelError::NeedsLibtorch)
}

/// As [`ModelHandle::load`].
pub(crate) fn load(
    model: &ModelHandle,
    device: DeviceName,
    prefix_budget_bytes: usize,
) -> Result<LoadedModel> {
    (linked()?.load)(model, device, prefix_budget_bytes)
}

/// Number of CUDA devices that libtorch sees.
///
/// # Errors
/// No CUDA libraries on the library path.
pub(crate) fn cuda_devices() -> Result<i64> {
    (linked()?.cuda_devices)()
}

/// A unit vector `[d_model]` from a standard normal drawn with libtorch's CPU generator after `manual_seed(seed)`, float32.
pub fn random_unit_vector(seed: u64, d_model: usize) -> Result<Vector> {
    (linked()?.random_unit_vector)(seed, d_model)
}

fn draw_unit_vector(seed: u64, d_model: usize) -> Result<Vector> {
    // The generator is the process's: nobody else is to seed it in between.
    static DRAWING: Mutex<()> = Mutex::new(());
    let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed as i64);
    let drawn = Tensor::f_randn([d_model as i64], (Kind::Float, Device::Cpu))?;
    let values = Vec::<f32>::try_from(drawn)?;
    let squares = values.iter().map(|&x| f64::from(x) * f64::from(x));
    let norm = squares.sum::<f64>().sqrt();
    let unit = values.iter().map(|&x| (f64::from(x) / norm) as f32);
    Ok(Vector::new(unit.collect()))
}

//! Independent jobs, each on one thread.
//!
//! On the processor libtorch itself is kept to one thread, and as many tiles run side by side as there are threads. That beats sharing out
//! the products inside a tile, which are too small to share well, and makes the numbers independent of the number of threads.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tch::Device;

use super::error::Result;

/// Works off the jobs, which are started in order, and hands each result to `on_result` on the calling thread, in the order in which they are
/// ready. Breaking from it, or a failure, leaves the rest undone.
pub(super) fn run<J: Sync, R: Send>(
    device: Device,
    jobs: &[J],
    work: impl Fn(&J) -> Result<R> + Sync,
    on_result: &mut dyn FnMut(R) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let workers = match device {
        Device::Cpu => rayon::current_num_threads().min(jobs.len()),
        // A GPU is shared by its streams, not by threads.
        _ => 1,
    };
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::sync_channel(workers.max(1));
    rayon::in_place_scope(|scope| {
        for _ in 0..workers {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move |_| {
                let _no_grad = tch::no_grad_guard();
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody listens any more once the work was stopped.
                    if sender.send(work(job)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for result in receiver {
            if on_result(result?).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

//! Work on tensors in which an error never ends the program.
//!
//! The bindings' fallible calls (`f_…`) panic all the same where one of their arguments is a scalar: the scalar is freed before the error is
//! read, and freeing it finds the error (tch 0.24, `Scalar::drop`). Running out of memory is an error that must be told by cell, so such a panic
//! is caught and made one.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::error::{ModelError, Result};

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Does some work; a panic in it is an error. What the work was writing to must not be used then.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work).unwrap_or_else(|panic| Err(ModelError::of_libtorch(&panic)))
}

/// Does some work; a panic in it is an error, in its words, and is not told besides.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    be_quiet_where_guarded();
    let outer = IS_GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(outer);
    outcome.map_err(|panic| message(panic.as_ref()))
}

/// A panic that becomes an error is told as one, and not as a panic before.
fn be_quiet_where_guarded() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                tell(panic);
            }
        }));
    });
}

/// What a panic says; of the bindings' own the text that libtorch gave.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = match panic.downcast_ref::<String>() {
        Some(text) => text.as_str(),
        None => panic.downcast_ref::<&str>().copied().unwrap_or("a panic"),
    };
    // `Err` value: Torch("first line\nsecond line …"), with its line ends escaped.
    let text = text.split_once("Torch(\"").map_or(text, |(_, text)| text);
    text.replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// The call that panics: a fill value is a scalar. No machine has a pebibyte.
    #[test]
    fn a_fallible_call_that_panics_is_an_error_of_memory() {
        let error = guarded(|| {
            let size = [1i64 << 50];
            Ok(Tensor::f_full(
                size.as_slice(),
                1.0,
                (Kind::Float, Device::Cpu),
            )?)
        });
        let message = error.unwrap_err().to_string();
        assert!(
            message.starts_with("out of memory: libtorch: "),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
    }

    #[test]
    fn other_panics_are_told_in_their_words() {
        let panicked: Result<(), _> = guarded(|| panic!("the {} is gone", "tensor"));
        let message = panicked.unwrap_err().to_string();
        assert_eq!(message, "libtorch: the tensor is gone");
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }
}

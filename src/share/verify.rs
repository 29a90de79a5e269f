//! A shared file, checked.
//!
//! ```text
//! draw         which cells are computed again
//! seen         which cells there are to draw from, and the drawn ones with their stored values
//! drift        how far what was computed again is from what is stored
//! tolerance    how far it may be
//! recomputed   the cells drawn, computed again, and what that says of all
//! ```

mod draw;
mod drift;
mod recomputed;
mod seen;
mod tolerance;

//! What an intervention does to a vector.

use std::sync::Arc;

use super::Vector;

/// What is done to a vector x at a hook point.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// x + scale · vector.
    Add {
        vector: Arc<Vector>,
        /// α, in units of the vector.
        scale: f64,
    },
    /// x − (x·v)v for a unit vector v: removes the component along v.
    Ablate(Arc<Vector>),
    /// The given vector instead of x.
    Replace(Arc<Vector>),
    /// x − Σ (x·q)q for orthonormal q: removes the component in their span.
    AblateSpan(Arc<[Arc<Vector>]>),
    /// x + (level − x·read) write. With the unit direction as both it puts the component along it at a level: ACE (Marshall et al.,
    /// arXiv:2411.09003), an ablation where that is 0. With two that differ it is LEACE of one direction (Belrose et al., arXiv:2306.03819).
    SetLevel {
        read: Arc<Vector>,
        write: Arc<Vector>,
        /// In units of `read`.
        level: f64,
    },
    /// x − Px + ‖Px‖(cos θ · first + sin θ · second) for orthonormal vectors and P onto their plane: what x has there is turned to the angle θ from
    /// the first, at its length (angular steering, arXiv:2510.26243).
    Rotate {
        first: Arc<Vector>,
        second: Arc<Vector>,
        degrees: f64,
    },
}

/// Which kind of edit, without its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::model) enum Operation {
    Add,
    Ablate,
    Replace,
    /// Of so many vectors.
    AblateSpan(usize),
    SetLevel,
    Rotate,
}

impl Edit {
    pub(in crate::model) fn operation(&self) -> Operation {
        match self {
            Edit::Add { .. } => Operation::Add,
            Edit::Ablate(_) => Operation::Ablate,
            Edit::Replace(_) => Operation::Replace,
            Edit::AblateSpan(vectors) => Operation::AblateSpan(vectors.len()),
            Edit::SetLevel { .. } => Operation::SetLevel,
            Edit::Rotate { .. } => Operation::Rotate,
        }
    }

    /// Its vectors, in a fixed order.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &Arc<Vector>> {
        let (some, span): ([Option<&Arc<Vector>>; 2], &[Arc<Vector>]) = match self {
            Edit::Add { vector, .. } | Edit::Ablate(vector) | Edit::Replace(vector) => {
                ([Some(vector), None], &[])
            }
            Edit::AblateSpan(vectors) => ([None, None], vectors),
            Edit::SetLevel { read, write, .. } => ([Some(read), Some(write)], &[]),
            Edit::Rotate { first, second, .. } => ([Some(first), Some(second)], &[]),
        };
        some.into_iter().flatten().chain(span)
    }

    /// Its number, where it has one.
    pub(in crate::model) fn number(&self) -> Option<f64> {
        match self {
            Edit::Ablate(_) | Edit::Replace(_) | Edit::AblateSpan(_) => None,
            Edit::Add { scale: number, .. }
            | Edit::SetLevel { level: number, .. }
            | Edit::Rotate {
                degrees: number, ..
            } => Some(*number),
        }
    }

    /// The same edit with other vectors.
    pub(crate) fn with(&self, other: impl Fn(&Arc<Vector>) -> Arc<Vector>) -> Self {
        match self {
            Edit::Add { vector, scale } => Edit::Add {
                vector: other(vector),
                scale: *scale,
            },
            Edit::Ablate(vector) => Edit::Ablate(other(vector)),
            Edit::Replace(vector) => Edit::Replace(other(vector)),
            Edit::AblateSpan(vectors) => Edit::AblateSpan(vectors.iter().map(other).collect()),
            Edit::SetLevel { read, write, level } => Edit::SetLevel {
                read: other(read),
                write: other(write),
                level: *level,
            },
            Edit::Rotate {
                first,
                second,
                degrees,
            } => Edit::Rotate {
                first: other(first),
                second: other(second),
                degrees: *degrees,
            },
        }
    }
}

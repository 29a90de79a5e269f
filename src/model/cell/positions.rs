//! The positions that an edit acts on.

use std::sync::Arc;

/// From the one position to before the other.
type Pair = (usize, usize);

/// The positions an intervention acts on, counted from the first token. Positions behind the prompt are those of generated tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Positions {
    At(usize),
    /// This position and all later ones, generated ones included.
    From(usize),
    /// Several ranges from the one position to before the other, ascending, with gaps between them; [`Positions::OPEN`] ends one that has no
    /// end. Made by [`Positions::of`].
    Ranges(Arc<[Pair]>),
}

impl Positions {
    /// The end of a range that has none.
    pub const OPEN: usize = usize::MAX;

    /// Half-open ranges, in any order; none where they hold no position.
    pub fn of(ranges: impl IntoIterator<Item = (usize, usize)>) -> Option<Self> {
        let mut ranges: Vec<Pair> = ranges
            .into_iter()
            .filter(|(start, end)| start < end)
            .collect();
        ranges.sort_unstable();
        let mut joined: Vec<Pair> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match joined.last_mut() {
                Some(before) if start <= before.1 => before.1 = before.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        match joined[..] {
            [] => None,
            [(start, Self::OPEN)] => Some(Positions::From(start)),
            [(start, end)] if end == start + 1 => Some(Positions::At(start)),
            _ => Some(Positions::Ranges(joined.into())),
        }
    }

    pub fn first(&self) -> usize {
        match self {
            Positions::At(position) | Positions::From(position) => *position,
            Positions::Ranges(ranges) => ranges.first().map_or(0, |(start, _)| *start),
        }
    }

    /// The ranges, ascending.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (usize, usize)> {
        let (one, several): (Option<Pair>, &[Pair]) = match self {
            Positions::At(position) => (Some((*position, position + 1)), &[]),
            Positions::From(position) => (Some((*position, Self::OPEN)), &[]),
            Positions::Ranges(ranges) => (None, ranges),
        };
        one.into_iter().chain(several.iter().copied())
    }

    /// Those below a number, ascending.
    pub(crate) fn below(&self, end: usize) -> impl Iterator<Item = usize> {
        let ranges = self.ranges();
        ranges.flat_map(move |(start, stop)| start..stop.min(end))
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, position: usize) -> bool {
        self.ranges()
            .any(|(start, end)| (start..end).contains(&position))
    }

    /// What is left of them where nothing behind `last` is computed, in one form for the same positions: `last` alone is [`Positions::At`] it,
    /// and a range of several that reaches it has no end.
    pub(super) fn up_to(&self, last: usize) -> Option<Self> {
        match self {
            Positions::At(position) | Positions::From(position) if *position > last => None,
            Positions::From(position) if *position == last => Some(Positions::At(last)),
            Positions::At(_) | Positions::From(_) => Some(self.clone()),
            Positions::Ranges(ranges) => {
                let before = ranges.iter().filter(|(start, _)| *start <= last);
                let cut = before.map(|&(start, end)| match end > last {
                    true => (start, Self::OPEN),
                    false => (start, end),
                });
                match Self::of(cut)? {
                    Positions::From(position) if position == last => Some(Positions::At(last)),
                    other => Some(other),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_positions_have_one_form() {
        assert_eq!(Positions::of([(3, 4)]), Some(Positions::At(3)));
        assert_eq!(
            Positions::of([(7, Positions::OPEN), (3, 5), (5, 7)]),
            Some(Positions::From(3))
        );
        assert_eq!(Positions::of([(5, 5)]), None);
        let several = Positions::of([(4, 6), (0, 2), (1, 3)]).unwrap();
        assert_eq!(several.ranges().collect::<Vec<_>>(), [(0, 3), (4, 6)]);
        assert!(several.contains(2) && !several.contains(3) && !several.contains(6));
        assert_eq!(several.first(), 0);
    }

    #[test]
    fn what_comes_behind_the_last_position_is_cut_off() {
        let of = |ranges: &[Pair]| Positions::of(ranges.iter().copied()).unwrap();
        assert_eq!(of(&[(2, 6)]).up_to(5), of(&[(2, Positions::OPEN)]).up_to(5));
        assert_eq!(of(&[(2, 6)]).up_to(5), Some(Positions::From(2)));
        assert_eq!(of(&[(2, 6)]).up_to(6), Some(of(&[(2, 6)])));
        assert_eq!(of(&[(5, 9)]).up_to(5), Some(Positions::At(5)));
        assert_eq!(of(&[(0, 1), (5, 9)]).up_to(4), Some(Positions::At(0)));
        assert_eq!(of(&[(6, 9)]).up_to(5), None);
    }
}

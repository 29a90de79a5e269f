//! Groups of things that share a key.

use std::collections::HashMap;
use std::hash::Hash;

/// Groups in the order in which their keys come first; the items of a group in the order in which they come.
pub(super) fn grouped<K: Clone + Eq + Hash, T>(
    items: impl IntoIterator<Item = (K, T)>,
) -> Vec<(K, Vec<T>)> {
    let mut numbers: HashMap<K, usize> = HashMap::new();
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for (key, item) in items {
        let number = *numbers.entry(key).or_insert_with_key(|key| {
            groups.push((key.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[number].1.push(item);
    }
    groups
}

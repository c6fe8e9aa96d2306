//! Answers already given, up to a number of them.

use std::{collections::HashMap, hash::Hash};

/// A map that forgets: two generations, each of at most `capacity` entries. What is asked for again survives; what is
/// not asked for during a whole generation goes.
pub(super) struct Cache<K, V> {
    capacity: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Copy, V: Clone> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn get(&mut self, key: K) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(value.clone());
        }
        let value = self.old.remove(&key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn what_is_used_survives_and_the_size_is_bounded() {
        let mut cache = Cache::new(10);
        for key in 0..1000 {
            cache.insert(key, key);
            cache.get(0);
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert_eq!(cache.get(0), Some(0));
        assert_eq!(cache.get(900), None);
    }
}

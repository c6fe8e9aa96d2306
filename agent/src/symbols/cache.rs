//! Answers already given, up to a number of them.

use std::{collections::HashMap, hash::Hash};

/// A map that forgets: two generations, each closed when its entries weigh `capacity` or more. What is asked for again
/// survives; what is not asked for during a whole generation goes.
pub(crate) struct Cache<K, V> {
    capacity: usize,
    /// The weight of the young ones.
    weight: usize,
    young: HashMap<K, Entry<V>>,
    old: HashMap<K, Entry<V>>,
}

struct Entry<V> {
    value: V,
    weight: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> Cache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, weight: 0, young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn get(&mut self, key: K) -> Option<V> {
        if let Some(entry) = self.young.get(&key) {
            return Some(entry.value.clone());
        }
        let Entry { value, weight } = self.old.remove(&key)?;
        self.insert(key, value.clone(), weight);
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V, weight: usize) {
        if self.weight >= self.capacity {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        let replaced = self.young.insert(key, Entry { value, weight });
        self.weight = self.weight + weight - replaced.map_or(0, |replaced| replaced.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn what_is_used_survives_and_the_weight_is_bounded() {
        let mut cache = Cache::new(100);
        for key in 0..1000 {
            cache.insert(key, key, 10);
            cache.insert(key, key, 10);
            cache.get(0);
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert_eq!(cache.get(0), Some(0));
        assert_eq!(cache.get(900), None);
        cache.insert(1, 1, 1000);
        cache.insert(2, 2, 1);
        assert_eq!(cache.young.len(), 1);
    }
}

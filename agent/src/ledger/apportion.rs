//! Whole numbers shared out by weight: the parts add up to the amount.

/// Parts of `amount` in proportion to `weights`, each at most its cap; the rounding goes to the largest remainders. What finds
/// no weight or no room stays with nobody: the second number.
pub(super) fn apportion(amount: u64, weights: &[f64], caps: &[u64]) -> (Vec<u64>, u64) {
    let mut parts = vec![0u64; weights.len()];
    let mut left = amount;
    // Each round fills some part to its cap, or shares out all that is left.
    while left > 0 {
        let has_room = |at: &usize| weights[*at] > 0.0 && parts[*at] < caps[*at];
        let open: Vec<usize> = (0..weights.len()).filter(has_room).collect();
        let sum: f64 = open.iter().map(|at| weights[*at]).sum();
        if open.is_empty() || !sum.is_finite() {
            break;
        }
        let exact: Vec<f64> = open.iter().map(|at| left as f64 * (weights[*at] / sum)).collect();
        let mut given = 0;
        for (at, exact) in open.iter().zip(&exact) {
            let part = (exact.floor() as u64).min(caps[*at] - parts[*at]).min(left - given);
            parts[*at] += part;
            given += part;
        }
        let mut by_remainder: Vec<usize> = (0..open.len()).collect();
        by_remainder.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()).then(a.cmp(b)));
        for at in by_remainder.into_iter().map(|position| open[position]) {
            if given < left && parts[at] < caps[at] {
                parts[at] += 1;
                given += 1;
            }
        }
        left -= given;
    }
    (parts, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = u64::MAX;

    #[test]
    fn parts_add_up() {
        assert_eq!(apportion(10, &[1.0, 1.0, 1.0], &[MOST; 3]), (vec![4, 3, 3], 0));
        assert_eq!(apportion(7, &[0.0, 3.0, 0.5], &[MOST; 3]), (vec![0, 6, 1], 0));
        assert_eq!(apportion(0, &[1.0], &[MOST]), (vec![0], 0));
    }

    #[test]
    fn nobody_gets_more_than_the_cap() {
        assert_eq!(apportion(10, &[8.0, 1.0, 1.0], &[3, 20, 2]), (vec![3, 5, 2], 0));
        assert_eq!(apportion(10, &[8.0, 1.0], &[3, 2]), (vec![3, 2], 5), "the rest finds no room");
    }

    #[test]
    fn without_weights_nothing_is_given() {
        assert_eq!(apportion(10, &[0.0, 0.0], &[MOST; 2]), (vec![0, 0], 10));
        assert_eq!(apportion(10, &[], &[]), (vec![], 10));
        assert_eq!(apportion(10, &[f64::INFINITY, 1.0], &[MOST; 2]), (vec![0, 0], 10));
    }

    #[test]
    fn large_amounts_are_shared_out_whole() {
        let weights: Vec<f64> = (1..500).map(|number| 1.0 / f64::from(number)).collect();
        let caps = vec![MOST; weights.len()];
        let (parts, left) = apportion(1 << 50, &weights, &caps);
        assert_eq!((parts.iter().sum::<u64>(), left), (1 << 50, 0));
    }
}

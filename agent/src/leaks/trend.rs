//! Slopes that a few odd points do not bend.

/// A slope and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// Per unit of x: the median of all slopes between two points (Theil–Sen).
    pub median: f64,
    /// Lower bound at 95 %.
    pub low: f64,
    /// Upper bound at 95 %.
    pub high: f64,
}

/// More points are thinned out evenly: their pairs are compared.
const MAX_POINTS: usize = 120;

/// The slope of points by Theil and Sen, with Sen's interval from Kendall's variance. `None` below four points or where all
/// have one x.
#[must_use]
pub fn theil_sen(points: &[(f64, f64)]) -> Option<Slope> {
    let step = points.len().div_ceil(MAX_POINTS).max(1);
    let points: Vec<(f64, f64)> = points.iter().copied().step_by(step).collect();
    let n = points.len();
    if n < 4 {
        return None;
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    for (index, one) in points.iter().enumerate() {
        for other in points.iter().skip(index + 1) {
            let run = other.0 - one.0;
            if run > 0.0 {
                slopes.push((other.1 - one.1) / run);
            }
        }
    }
    if slopes.is_empty() {
        return None;
    }
    slopes.sort_by(f64::total_cmp);
    let pairs = slopes.len();
    let at = |rank: f64| slopes.get((rank.max(0.0) as usize).min(pairs - 1)).copied().unwrap_or_default();
    let (n, m) = (n as f64, pairs as f64);
    let spread = 1.96 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let median = (at((m - 1.0) / 2.0) + at(m / 2.0)) / 2.0;
    Some(Slope { median, low: at((m - spread) / 2.0), high: at(f64::midpoint(m, spread)) })
}

/// Bounds at 95 % of a rate of events that come independently, from how many there were.
#[must_use]
pub fn poisson_bounds(events: u64) -> (f64, f64) {
    let events = events as f64;
    // Square roots of counts spread by a half, whatever the count.
    let root = (events + 0.375).sqrt();
    ((root - 0.98).max(0.0).powi(2) - 0.375, (root + 0.98).powi(2) - 0.375)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_do_not_bend_it() {
        let mut points: Vec<(f64, f64)> = (0..60).map(|x| (f64::from(x), 2.0 * f64::from(x) + 5.0)).collect();
        points[30].1 = 10_000.0;
        points[7].1 = -900.0;
        let slope = theil_sen(&points).unwrap();
        assert!((slope.median - 2.0).abs() < 0.01 && slope.low > 1.9 && slope.high < 2.1, "{slope:?}");
    }

    #[test]
    fn a_wave_has_no_sure_slope() {
        let points: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), (f64::from(x) / 2.0).sin() * 50.0)).collect();
        let slope = theil_sen(&points).unwrap();
        assert!(slope.low < 0.0 && slope.high > 0.0, "{slope:?}");
        assert_eq!(theil_sen(&points[..3]), None);
    }

    #[test]
    fn few_events_say_little() {
        let (low, high) = poisson_bounds(4);
        assert!(low > 0.5 && low < 2.0 && high > 8.0 && high < 11.0, "{low} {high}");
        assert!(poisson_bounds(0).0 <= 0.0);
    }
}

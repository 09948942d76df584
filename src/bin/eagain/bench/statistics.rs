//! What several values say of the one that they are values of.

use serde::Serialize;

/// The two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any table of statistics).
const STUDENT_T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];
const NORMAL_95: f64 = 1.960;

/// Of at least one value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// In which the mean of all such measurements lies with 95 % confidence, by Student's t; `None` for one value.
    pub(crate) ci95: Option<[f64; 2]>,
}

impl Spread {
    /// `None`: there is no value.
    pub(crate) fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
        let mean = sorted.iter().sum::<f64>() / count as f64;
        let ci95 = (count > 1).then(|| {
            let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
            let error = (squares / (count - 1) as f64 / count as f64).sqrt();
            let t = STUDENT_T_95.get(count - 2).copied().unwrap_or(NORMAL_95);
            [mean - t * error, mean + t * error]
        });
        Some(Spread { median, mean, min, max, ci95 })
    }

    /// By how much `other` differs, as a ratio of the means; `None`: the intervals overlap, or there are none.
    pub(crate) fn ratio_to(&self, other: &Spread) -> Option<f64> {
        let ([low, high], [other_low, other_high]) = (self.ci95?, other.ci95?);
        let apart = high < other_low || other_high < low;
        (apart && self.mean != 0.0).then(|| other.mean / self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_interval_is_students() {
        // R: t.test(c(1, 2, 3, 4)) says 0.4457397 to 4.5542603.
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).expect("values");
        let [low, high] = spread.ci95.expect("several");
        assert!((low - 0.4457).abs() < 1e-3 && (high - 4.5543).abs() < 1e-3, "{spread:?}");
        assert_eq!((spread.median, spread.mean, spread.min, spread.max), (2.5, 2.5, 1.0, 4.0));
        assert_eq!(Spread::of(&[7.0]).map(|one| (one.median, one.ci95)), Some((7.0, None)));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn one_value_alone_proves_no_difference() {
        let (one, other) = (Spread::of(&[1.0]).expect("a value"), Spread::of(&[9.0]).expect("a value"));
        assert_eq!(one.ratio_to(&other), None);
    }

    #[test]
    fn what_is_far_apart_differs_and_what_overlaps_does_not() {
        let low = Spread::of(&[10.0, 11.0, 10.5]).expect("values");
        let high = Spread::of(&[20.0, 21.0, 20.5]).expect("values");
        let wide = Spread::of(&[5.0, 25.0, 15.0]).expect("values");
        assert!((low.ratio_to(&high).expect("apart") - 20.5 / 10.5).abs() < 1e-9);
        assert_eq!((low.ratio_to(&wide), wide.ratio_to(&high), low.ratio_to(&low)), (None, None, None));
    }

    proptest! {
        #[test]
        fn the_figures_are_in_order(values in proptest::collection::vec(0.0..1e9f64, 1..50)) {
            let spread = Spread::of(&values).expect("values");
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            prop_assert!(spread.min <= spread.mean * (1.0 + 1e-9) && spread.mean <= spread.max * (1.0 + 1e-9));
            if let Some([low, high]) = spread.ci95 {
                prop_assert!(low <= spread.mean && spread.mean <= high);
            }
        }
    }
}

//! A histogram in letters.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::table::{count, time};

const WIDTH: usize = 40;

/// Nanoseconds, in classes of 1, 2 and 5 times a power of ten; a bar is as long as its part of all.
pub(super) fn show(values: &Histogram<u64>) -> String {
    let classes: Vec<(u64, u64)> = classes(values);
    let most = classes.iter().map(|(_, number)| *number).max().unwrap_or(0).max(1);
    let mut text = String::new();
    for (upper, number) in classes {
        let bar = "#".repeat((number as f64 / most as f64 * WIDTH as f64).ceil() as usize);
        let line = format!("  to {:>9} {:>13} {bar}", time(upper as f64), count(number as f64));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The upper bound of each class from the first that is not empty to the last, and how many are in it.
fn classes(values: &Histogram<u64>) -> Vec<(u64, u64)> {
    let mut classes = Vec::new();
    if values.is_empty() {
        return classes;
    }
    let bounds = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.saturating_pow(power)));
    // By what is below a bound: the histogram cannot tell a bound from the value after it, and would count both twice.
    let mut below = 0;
    for upper in bounds {
        let up_to = values.count_between(0, upper);
        if upper >= values.min() {
            classes.push((upper, up_to - below));
        }
        if upper >= values.max() {
            break;
        }
        below = up_to;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::histogram;

    #[test]
    fn every_value_is_in_one_class() {
        let mut values = histogram();
        for value in [900, 1_500, 1_800, 4_000, 60_000, 500_000, 500_001, 900_000] {
            values.record(value).expect("in range");
        }
        assert_eq!(classes(&values).iter().map(|(_, number)| number).sum::<u64>(), 8);
        let text = show(&values);
        assert!(text.starts_with("  to    1.0 µs             1 ####################\n"), "{text}");
        assert_eq!(show(&histogram()), "");
    }
}

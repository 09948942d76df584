//! The result for the eye: times by percentile, and throughput over time.

use hdrhistogram::Histogram;

use super::outcome::Outcome;
use super::plan::Pace;
use super::table::{bytes, count, kind, time};
use crate::chart::{Axis, Chart, Scale, Series, page};

pub(super) fn show(outcomes: &[Outcome]) -> String {
    let answers = outcomes.iter().any(|outcome| outcome.plan.service.answers());
    let mut charts = Vec::new();
    if answers {
        charts.push(by_percentile(outcomes));
    }
    charts.push(over_time(outcomes, answers));
    let names: Vec<_> = outcomes.iter().map(|outcome| outcome.plan.name.as_str()).collect();
    page(&format!("eagain bench: {}", names.join(", ")), &charts)
}

fn by_percentile(outcomes: &[Outcome]) -> Chart {
    let mut series = Vec::new();
    for outcome in outcomes {
        let name = if outcomes.len() > 1 { format!("{}: ", outcome.plan.name) } else { String::new() };
        series.push(Series { name: format!("{name}{}", kind(outcome)), points: percentiles(&outcome.latency()) });
        if let Some(service_time) = outcome.service_time() {
            series.push(Series { name: format!("{name}service time"), points: percentiles(&service_time) });
        }
    }
    Chart {
        title: match outcomes.first().map(|outcome| outcome.plan.pace) {
            Some(Pace::Open { .. }) => "Latency by percentile".to_owned(),
            _ => "Service time by percentile".to_owned(),
        },
        x: Axis { label: "percentile".to_owned(), scale: Scale::Nines, form: Box::new(percent) },
        y: Axis {
            label: "on a logarithmic scale".to_owned(),
            scale: Scale::Logarithmic,
            form: Box::new(|ns| time(ns).replace(".0 ", " ")),
        },
        series,
    }
}

/// Quantiles, as far as there are values above them.
fn percentiles(values: &Histogram<u64>) -> Vec<(f64, f64)> {
    if values.is_empty() {
        return Vec::new();
    }
    let last = -(1.0 / values.len() as f64).log10();
    let steps = (last * 20.0).floor() as u32;
    let quantile = |step: u32| 1.0 - 10f64.powf(-f64::from(step) / 20.0);
    // 0 has no place on a logarithmic axis; nothing is faster than a nanosecond.
    (0..=steps).map(|step| (quantile(step), values.value_at_quantile(quantile(step)).max(1) as f64)).collect()
}

fn percent(quantile: f64) -> String {
    let text = format!("{:.6}", quantile * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn over_time(outcomes: &[Outcome], answers: bool) -> Chart {
    let series = outcomes.iter().flat_map(|outcome| {
        outcome.runs.iter().enumerate().map(move |(at, run)| {
            let whole = run.intervals.iter().filter(|interval| !interval.length.is_zero());
            let points = whole.map(|interval| {
                let amount = if answers { interval.messages } else { interval.bytes };
                let seconds = interval.length.as_secs_f64();
                (interval.start.as_secs_f64() + seconds / 2.0, amount as f64 / seconds)
            });
            // All runs of an outcome are drawn alike, under one name.
            let name = if at == 0 { outcome.plan.name.clone() } else { String::new() };
            Series { name, points: points.collect() }
        })
    });
    let (title, form): (_, fn(f64) -> String) = match answers {
        true => ("Messages a second", count),
        false => ("Bytes a second", |number| bytes(number).replace(".0 ", " ")),
    };
    Chart {
        title: title.to_owned(),
        x: Axis { label: "seconds".to_owned(), scale: Scale::Linear, form: Box::new(count) },
        y: Axis { label: "of all connections together".to_owned(), scale: Scale::Linear, form: Box::new(form) },
        series: series.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::histogram;

    #[test]
    fn no_percentile_is_drawn_that_no_value_stands_above() {
        let mut values = histogram();
        for value in 1..=1000 {
            values.record(value * 1000).expect("in range");
        }
        let points = percentiles(&values);
        assert!((points[points.len() - 1].0 - 0.999).abs() < 1e-6, "{points:?}");
        assert_eq!(points[0].0, 0.0);
        assert_eq!(percentiles(&histogram()), []);
        assert_eq!([0.0, 0.5, 0.99, 0.9999].map(percent), ["0", "50", "99", "99.99"]);
    }
}

//! What can be said of the figures: who needs less, from where on, and where nobody does.

use std::collections::BTreeMap;

use serde::Serialize;

use super::models::{Cell, Grid, MODELS};
use crate::bench::Spread;

/// What differs by less is the same for every purpose, however sure the difference is.
const WORTH_TELLING: f64 = 0.03;

#[derive(Debug, Serialize)]
pub(super) struct Findings {
    /// By figure: what does not differ by more than this part is called no difference. It is what one model differs
    /// from itself by, and at least 3 %.
    pub(super) thresholds: BTreeMap<&'static str, f64>,
    pub(super) same_model_twice: Vec<Twice>,
    pub(super) pairs: Vec<Pair>,
}

/// One model against itself.
#[derive(Debug, Serialize)]
pub(super) struct Twice {
    pub(super) model: &'static str,
    pub(super) figure: &'static str,
    pub(super) idle: usize,
    pub(super) size: usize,
    pub(super) connections: usize,
    /// The second by the first, of the medians.
    pub(super) ratio: f64,
    /// Their ranges are apart, and the medians by more than 3 %. It should never be so.
    pub(super) differs: bool,
}

/// Two models, by one figure, at one size and number of active connections.
#[derive(Debug, Serialize)]
pub(super) struct Pair {
    pub(super) figure: &'static str,
    pub(super) models: [&'static str; 2],
    pub(super) size: usize,
    pub(super) connections: usize,
    pub(super) at: Vec<At>,
    /// One is better at the first of these numbers of idle connections, and the other one at the second.
    pub(super) cross_between: Option<[usize; 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct At {
    pub(super) idle: usize,
    /// `null`: no difference.
    pub(super) better: Option<&'static str>,
    /// By how much: always at least 1.
    pub(super) times: Option<f64>,
}

/// A figure that is compared.
struct Figure {
    name: &'static str,
    of: fn(&Cell) -> &Spread,
    more_is_better: bool,
}

pub(super) const CPU: &str = "server_cpu_ns_per_message";
pub(super) const THROUGHPUT: &str = "messages_per_second";
const FIGURES: [Figure; 2] = [
    Figure { name: CPU, of: |cell| &cell.server_cpu_ns_per_message, more_is_better: false },
    Figure { name: THROUGHPUT, of: |cell| &cell.messages_per_second, more_is_better: true },
];

impl Findings {
    pub(super) fn of(grid: &Grid, cells: &[Cell], again: &[Cell]) -> Self {
        let same_model_twice: Vec<Twice> = again.iter().flat_map(|second| twice(cells, second)).collect();
        let threshold_of = |figure: &Figure| {
            let here = same_model_twice.iter().filter(|twice| twice.figure == figure.name);
            here.map(|twice| twice.ratio.max(1.0 / twice.ratio) - 1.0).fold(WORTH_TELLING, f64::max)
        };
        let thresholds: BTreeMap<_, _> = FIGURES.iter().map(|figure| (figure.name, threshold_of(figure))).collect();
        let mut pairs = Vec::new();
        for figure in &FIGURES {
            let threshold = thresholds[figure.name];
            for &size in &grid.sizes {
                for &connections in &grid.connections {
                    let here: Vec<&Cell> =
                        cells.iter().filter(|cell| (cell.size, cell.connections) == (size, connections)).collect();
                    for (first, one) in MODELS.iter().enumerate() {
                        for other in &MODELS[first + 1..] {
                            let models = [one.name, other.name];
                            let at = compare(figure, &here, models, &grid.idle, threshold);
                            let cross_between = crossing(&at);
                            pairs.push(Pair { figure: figure.name, models, size, connections, at, cross_between });
                        }
                    }
                }
            }
        }
        Self { thresholds, same_model_twice, pairs }
    }
}

fn twice(cells: &[Cell], second: &Cell) -> Vec<Twice> {
    let place = |cell: &Cell| (cell.model, cell.idle, cell.size, cell.connections);
    let Some(first) = cells.iter().find(|cell| place(cell) == place(second)) else { return Vec::new() };
    FIGURES
        .iter()
        .map(|figure| {
            let (one, other) = ((figure.of)(first), (figure.of)(second));
            Twice {
                model: second.model,
                figure: figure.name,
                idle: second.idle,
                size: second.size,
                connections: second.connections,
                ratio: other.median / one.median,
                differs: times(one, other, WORTH_TELLING).is_some(),
            }
        })
        .collect()
}

/// `other` by `one`, of the medians; `None`: no difference. That is where the ranges of all measurements overlap, which
/// those of one thing do 126 times of 127, if there are five and five. An interval of confidence of the mean would be
/// wider than the figures are apart as soon as one of them is far off.
fn times(one: &Spread, other: &Spread, threshold: f64) -> Option<f64> {
    let apart = one.max < other.min || other.max < one.min;
    let ratio = other.median / one.median;
    (apart && ratio.max(1.0 / ratio) > 1.0 + threshold).then_some(ratio)
}

fn compare(figure: &Figure, here: &[&Cell], models: [&'static str; 2], idle: &[usize], threshold: f64) -> Vec<At> {
    let find = |model: &str, idle: usize| here.iter().find(|cell| cell.model == model && cell.idle == idle);
    idle.iter()
        .filter_map(|&idle| {
            let (one, other) = (find(models[0], idle)?, find(models[1], idle)?);
            let ratio = times((figure.of)(one), (figure.of)(other), threshold);
            let better = ratio.map(|ratio| models[usize::from((ratio > 1.0) == figure.more_is_better)]);
            Some(At { idle, better, times: ratio.map(|ratio| ratio.max(1.0 / ratio)) })
        })
        .collect()
}

/// The first place where the better one is another than before.
fn crossing(at: &[At]) -> Option<[usize; 2]> {
    let decided: Vec<&At> = at.iter().filter(|at| at.better.is_some()).collect();
    decided.windows(2).find(|pair| pair[0].better != pair[1].better).map(|pair| [pair[0].idle, pair[1].idle])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(model: &'static str, idle: usize, cpu: [f64; 5]) -> Cell {
        let spread = |values: &[f64]| Spread::of(values).unwrap();
        Cell {
            model,
            idle,
            size: 64,
            connections: 16,
            messages_per_second: spread(&cpu.map(|cpu| 1e9 / cpu)),
            p50_us: spread(&cpu),
            p99_us: spread(&cpu),
            server_cpu_ns_per_message: spread(&cpu),
            server_rss_bytes: spread(&cpu),
            errors: 0,
        }
    }

    fn grid() -> Grid {
        Grid { idle: vec![0, 900], sizes: vec![64], connections: vec![16], ..Grid::for_tests() }
    }

    const FAST: [f64; 5] = [100.0, 101.0, 102.0, 103.0, 104.0];
    const SLOW: [f64; 5] = [200.0, 201.0, 202.0, 203.0, 204.0];

    fn pair<'f>(findings: &'f Findings, figure: &str, models: [&str; 2]) -> &'f Pair {
        findings.pairs.iter().find(|pair| pair.figure == figure && pair.models == models).unwrap()
    }

    #[test]
    fn curves_that_cross_are_said_to_cross_and_those_that_do_not_are_not() {
        let cells = [
            cell("poll", 0, FAST),
            cell("poll", 900, SLOW),
            cell("epoll-level", 0, SLOW),
            cell("epoll-level", 900, FAST),
            cell("epoll-edge", 0, SLOW),
            cell("epoll-edge", 900, FAST),
        ];
        let findings = Findings::of(&grid(), &cells, &[]);
        for figure in ["server_cpu_ns_per_message", "messages_per_second"] {
            let crossing = pair(&findings, figure, ["poll", "epoll-level"]);
            assert_eq!(crossing.cross_between, Some([0, 900]));
            assert_eq!(crossing.at.iter().map(|at| at.better).collect::<Vec<_>>(), [Some("poll"), Some("epoll-level")]);
            assert!(crossing.at.iter().all(|at| (1.9..2.1).contains(&at.times.unwrap())));
            let same = pair(&findings, figure, ["epoll-level", "epoll-edge"]);
            assert_eq!(same.cross_between, None);
            assert!(same.at.iter().all(|at| at.better.is_none() && at.times.is_none()));
        }
        // One measurement that is far off does not hide a difference of a hundred times.
        let wild = [cell("poll", 0, [30_000.0, 9000.0, 8000.0, 8500.0, 8200.0]), cell("epoll-edge", 0, FAST)];
        let findings = Findings::of(&grid(), &wild, &[]);
        assert_eq!(pair(&findings, CPU, ["poll", "epoll-edge"]).at[0].better, Some("epoll-edge"));
        // A model that was not measured is in no comparison.
        assert!(pair(&findings, "messages_per_second", ["threads", "select"]).at.is_empty());
    }

    #[test]
    fn what_a_model_differs_from_itself_by_is_no_difference() {
        let near = FAST.map(|cpu| cpu * 1.1);
        let cells = [cell("poll", 0, FAST), cell("epoll-level", 0, near)];
        let sure = Findings::of(&grid(), &cells, &[cell("epoll-level", 0, near)]);
        assert_eq!(sure.thresholds[CPU], 0.03);
        assert!(sure.same_model_twice.iter().all(|twice| !twice.differs && twice.ratio == 1.0));
        assert_eq!(pair(&sure, CPU, ["poll", "epoll-level"]).at[0].better, Some("poll"));

        let noisy = Findings::of(&grid(), &cells, &[cell("epoll-level", 0, near.map(|cpu| cpu * 1.2))]);
        assert!((0.19..0.21).contains(&noisy.thresholds[CPU]) && noisy.same_model_twice[0].differs);
        assert_eq!(pair(&noisy, CPU, ["poll", "epoll-level"]).at[0].better, None);
    }
}

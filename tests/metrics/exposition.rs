//! A strict reader of the Prometheus text format, 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Labels = Vec<(String, String)>;

/// A page that keeps all the rules.
pub(crate) struct Scrape {
    /// By the name of the sample.
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
    counters: BTreeSet<String>,
}

impl Scrape {
    #[track_caller]
    pub(crate) fn parse(page: &str) -> Scrape {
        assert!(page.ends_with('\n'), "the last line has an end");
        let mut scrape = Scrape { samples: BTreeMap::new(), counters: BTreeSet::new() };
        let mut families = BTreeSet::new();
        let mut lines = page.lines().peekable();
        while let Some(line) = lines.next() {
            let (family, help) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect(line);
            assert!(is_name(family) && !help.is_empty(), "{line}");
            assert!(families.insert(family), "{family} comes twice: all lines of a family stand together");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {family} "))).expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert_eq!(family.ends_with("_total"), kind == "counter", "{family}");
            if kind == "counter" {
                scrape.counters.insert(family.to_owned());
            }
            let mut count = 0;
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                scrape.add(family, kind, line);
                count += 1;
            }
            assert!(count > 0, "{family} has no samples");
            if kind == "histogram" {
                scrape.check_histogram(family);
            }
        }
        scrape
    }

    #[track_caller]
    fn add(&mut self, family: &str, kind: &str, line: &str) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect(line));
        let of_family = match kind {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}")),
            _ => name == family,
        };
        assert!(of_family, "{line} is not of {family}");
        let (labels, value) = labels(rest);
        let value = value.strip_prefix(' ').expect(line);
        let value: f64 = value.parse().expect(line);
        assert!(value.is_finite() && (kind == "gauge" || value >= 0.0), "{line}");
        let series = self.samples.entry(name.to_owned()).or_default();
        assert!(series.iter().all(|(known, _)| *known != labels), "{line} comes twice");
        series.push((labels, value));
    }

    /// Buckets are cumulative, in order, and the last one has everything.
    #[track_caller]
    fn check_histogram(&self, family: &str) {
        let buckets = &self.samples[&format!("{family}_bucket")];
        for (labels, count) in &self.samples[&format!("{family}_count")] {
            let own: Vec<(f64, f64)> = buckets
                .iter()
                .filter(|(all, _)| all.iter().filter(|(name, _)| name != "le").eq(labels.iter()))
                .map(|(all, count)| {
                    let bound = &all.iter().find(|(name, _)| name == "le").expect("le").1;
                    (if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect(bound) }, *count)
                })
                .collect();
            assert!(own.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1), "{own:?}");
            assert_eq!(own.last(), Some(&(f64::INFINITY, *count)));
        }
    }

    /// The sum of the samples of that name with these labels; a name that is not there is a failure.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, only: &[(&str, &str)]) -> f64 {
        let series = self.samples.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        let has =
            |labels: &Labels| only.iter().all(|(name, value)| labels.iter().any(|(n, v)| n == name && v == value));
        series.iter().filter(|(labels, _)| has(labels)).map(|(_, value)| value).sum()
    }

    #[track_caller]
    pub(crate) fn labels_of(&self, name: &str) -> Vec<&Labels> {
        self.samples[name].iter().map(|(labels, _)| labels).collect()
    }

    #[track_caller]
    pub(crate) fn assert_no_counter_went_back_since(&self, before: &Scrape) {
        for name in &self.counters {
            for (now, then) in self.samples[name].iter().zip(&before.samples[name]) {
                assert_eq!(now.0, then.0);
                assert!(now.1 >= then.1, "{name} {:?}: {} after {}", now.0, now.1, then.1);
            }
        }
    }
}

/// `{a="b",c="d"}` and what stands behind it.
#[track_caller]
fn labels(text: &str) -> (Labels, &str) {
    let Some(mut rest) = text.strip_prefix('{') else { return (Vec::new(), text) };
    let mut labels = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"").expect(text);
        assert!(is_name(name) && !name.contains(':') && !name.starts_with("__"), "{text}");
        assert!(labels.iter().all(|(known, _)| known != name), "{text}");
        let (value, after) = quoted(after);
        labels.push((name.to_owned(), value));
        rest = match after.strip_prefix(',') {
            Some(more) => more,
            None => return (labels, after.strip_prefix('}').expect(text)),
        };
    }
}

/// Up to the quotation mark: only `\\`, `\"` and `\n` are escapes.
#[track_caller]
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                _ => panic!("no escape: {text}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no end: {text}");
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

//! The lines of `/metrics`, read back. Only what our own server writes is understood.

use std::time::Instant;

/// One line.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// One scrape.
#[derive(Debug, Default)]
pub(super) struct Samples {
    samples: Vec<Sample>,
    /// `None`: nothing was scraped, everything is 0.
    pub(super) taken: Option<Instant>,
}

impl Samples {
    /// `None`: that is not the page of an eagain.
    pub(super) fn parse(page: &str) -> Option<Self> {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(parse).collect::<Option<Vec<_>>>()?;
        let ours = samples.iter().any(|sample| sample.name == "eagain_build_info");
        ours.then(|| Self { samples, taken: Some(Instant::now()) })
    }

    /// The sum of all samples of that name that have these labels; 0 if there is none.
    pub(super) fn sum(&self, name: &str, only: &[(&str, &str)]) -> f64 {
        // Not `sum`, for which nothing is -0.
        self.named(name).filter(|sample| sample.has(only)).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// The value of a label of the one sample of that name.
    pub(super) fn label(&self, name: &str, label: &str) -> &str {
        self.named(name).find_map(|sample| sample.label(label)).unwrap_or_default()
    }

    /// Which values that label has, in the order of the page.
    pub(super) fn values_of(&self, label: &str) -> Vec<String> {
        let mut values: Vec<String> = Vec::new();
        for value in self.named("eagain_connections_open").filter_map(|sample| sample.label(label)) {
            if !values.iter().any(|known| known == value) {
                values.push(value.to_owned());
            }
        }
        values
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, only: &[(&str, &str)]) -> bool {
        only.iter().all(|(name, value)| self.label(name) == Some(value))
    }
}

/// `name{label="value",…} number`. No label of ours holds a quotation mark, a comma or a backslash.
fn parse(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    let pair = |text: &str| {
        let (label, value) = text.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c));
        plain.then(|| (label.to_owned(), value.to_owned()))
    };
    let labels = labels.split(',').filter(|text| !text.is_empty()).map(pair).collect::<Option<_>>()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let page = "# HELP x y\neagain_build_info{version=\"1.2.3\"} 1\n\
                    eagain_connections_open{worker=\"0\",service=\"echo\"} 3\n\
                    eagain_connections_open{worker=\"1\",service=\"echo\"} 4\n";
        let samples = Samples::parse(page).expect("a page");
        assert_eq!(samples.sum("eagain_connections_open", &[]), 7.0);
        assert_eq!(samples.sum("eagain_connections_open", &[("worker", "1")]), 4.0);
        assert_eq!(samples.sum("eagain_connections_open", &[("service", "log")]), 0.0);
        assert_eq!(samples.values_of("worker"), ["0", "1"]);
        assert_eq!(samples.label("eagain_build_info", "version"), "1.2.3");
    }

    #[test]
    fn pages_of_others_are_not_taken_for_ours() {
        for page in ["", "go_goroutines 7\n", "<html>\n", "eagain_build_info{version=\"\x1b[2J\"} 1\n"] {
            assert!(Samples::parse(page).is_none(), "{page:?}");
        }
    }
}

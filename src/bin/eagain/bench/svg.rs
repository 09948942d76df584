//! Line charts in SVG, one below another. The colours are those of the reader: light or dark, by CSS.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
/// Of one chart, with its title and its labels.
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 100.0;
/// From the axis to the first row of names.
const LEGEND: f64 = 62.0;
/// A name's line, and a letter: wide ones fit too.
const KEY: f64 = 36.0;
const LETTER: f64 = 7.2;
/// As many as there are colours.
const COLOURS: usize = 6;

/// Colours that differ in lightness too, and stand out from both grounds; contrast at least 3:1 (WCAG 1.4.11).
const STYLE: &str = "\
.ground{fill:#ffffff}.text{fill:#1f2328}.soft{fill:#59636e}.grid{stroke:#d1d9e0}.frame{stroke:#59636e;fill:none}\
.s0{stroke:#0550ae}.s1{stroke:#bc4c00}.s2{stroke:#1a7f37}.s3{stroke:#8250df}.s4{stroke:#bf3989}.s5{stroke:#57606a}\
@media(prefers-color-scheme:dark){\
.ground{fill:#0d1117}.text{fill:#e6edf3}.soft{fill:#9198a1}.grid{stroke:#30363d}.frame{stroke:#9198a1}\
.s0{stroke:#79c0ff}.s1{stroke:#ffa657}.s2{stroke:#56d364}.s3{stroke:#d2a8ff}.s4{stroke:#ff9bce}.s5{stroke:#b1bac4}}\
.line{fill:none;stroke-width:2;stroke-linejoin:round}text{font-family:system-ui,sans-serif;font-size:13px}\
.title{font-size:16px;font-weight:600}.end{text-anchor:end}.middle{text-anchor:middle}";

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From 0.
    Linear,
    /// Powers of ten; values must be above 0.
    Logarithmic,
    /// Quantiles from 0 up to, but not including, 1: each further nine takes as much room as the one before.
    Nines,
}

pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// How a value is written at its tick.
    pub(crate) form: fn(f64) -> String,
}

pub(crate) struct Series {
    /// Empty: more of the one before, drawn as that.
    pub(crate) name: String,
    /// In the order of x.
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// One picture of several charts. `description` is for those who cannot see it.
pub(crate) fn page(description: &str, charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n",
        escape(description)
    );
    for (at, chart) in charts.iter().enumerate() {
        let _ = writeln!(text, "<g transform=\"translate(0 {})\">", HEIGHT * at as f64);
        chart.draw(&mut text);
        text += "</g>\n";
    }
    text + "</svg>\n"
}

impl Chart {
    fn draw(&self, text: &mut String) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let across = Range::of(self.x.scale, points().map(|point| point.0));
        let up = Range::of(self.y.scale, points().map(|point| point.1));
        let x = |value| LEFT + across.part(value) * (WIDTH - LEFT - RIGHT);
        let y = |value| HEIGHT - BOTTOM - up.part(value) * (HEIGHT - TOP - BOTTOM);
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let _ = writeln!(text, "<text class=\"text title\" x=\"{LEFT}\" y=\"24\">{}</text>", escape(&self.title));
        for tick in up.ticks() {
            let (at, label) = (y(tick), escape(&(self.y.form)(tick)));
            let _ = writeln!(text, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
            let _ =
                writeln!(text, "<text class=\"soft end\" x=\"{}\" y=\"{:.1}\">{label}</text>", LEFT - 8.0, at + 4.0);
        }
        for tick in across.ticks() {
            let (at, label) = (x(tick), escape(&(self.x.form)(tick)));
            let _ = writeln!(text, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
            let _ = writeln!(text, "<text class=\"soft middle\" x=\"{at:.1}\" y=\"{}\">{label}</text>", bottom + 20.0);
        }
        let _ = writeln!(text, "<path class=\"frame\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>");
        let middle = (LEFT + right) / 2.0;
        let label = escape(&self.x.label);
        let _ = writeln!(text, "<text class=\"soft middle\" x=\"{middle}\" y=\"{}\">{label}</text>", bottom + 40.0);
        let label = escape(&self.y.label);
        let _ = writeln!(text, "<text class=\"soft end\" x=\"{right}\" y=\"24\">{label}</text>");
        for (at, series) in self.styled() {
            line(text, at, series, &x, &y);
        }
        self.legend(text);
    }

    /// Each line with the number of its style.
    fn styled(&self) -> impl Iterator<Item = (usize, &Series)> {
        let mut names = 0;
        self.series.iter().map(move |series| {
            names += usize::from(!series.name.is_empty());
            (names.max(1) - 1, series)
        })
    }

    /// Names in a row; in another one below, where there is no room left.
    fn legend(&self, text: &mut String) {
        let (mut left, mut y) = (LEFT, HEIGHT - BOTTOM + LEGEND);
        for (at, series) in self.styled().filter(|(_, series)| !series.name.is_empty()) {
            let width = KEY + LETTER * series.name.chars().count() as f64;
            if left > LEFT && left + width > WIDTH {
                (left, y) = (LEFT, y + 20.0);
            }
            let _ = writeln!(text, "<path class=\"{}\" {} d=\"M{left} {y}h28\"/>", class(at), dashes(at));
            let name = escape(&series.name);
            let _ = writeln!(text, "<text class=\"text\" x=\"{}\" y=\"{}\">{name}</text>", left + KEY, y + 4.0);
            left += width + 20.0;
        }
    }
}

fn line(text: &mut String, at: usize, series: &Series, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    let mut path = String::new();
    for (index, point) in series.points.iter().enumerate() {
        let _ = write!(path, "{}{:.1} {:.1}", if index == 0 { 'M' } else { 'L' }, x(point.0), y(point.1));
    }
    let _ = writeln!(text, "<path class=\"{}\" {} d=\"{path}\"/>", class(at), dashes(at));
    // A line of one point is nothing to see.
    if let [only] = series.points[..] {
        let _ =
            writeln!(text, "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", class(at), x(only.0), y(only.1));
    }
}

fn class(at: usize) -> String {
    format!("line s{}", at % COLOURS)
}

/// Lines are told apart without colours too.
fn dashes(at: usize) -> &'static str {
    ["", "stroke-dasharray=\"8 4\"", "stroke-dasharray=\"2 4\"", "stroke-dasharray=\"12 4 2 4\""][at % 4]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What an axis shows.
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Range {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low > high { (1.0, 1.0) } else { (low, high) };
        let (low, high) = match scale {
            Scale::Linear => (0.0, if high > 0.0 { high * 1.05 } else { 1.0 }),
            Scale::Logarithmic => {
                let power = |value: f64| value.max(1e-9).log10();
                let (low, high) = (power(low).floor(), power(high).ceil());
                (10f64.powf(low), 10f64.powf(high.max(low + 1.0)))
            }
            Scale::Nines => (0.0, high.max(0.9)),
        };
        Range { scale, low, high }
    }

    /// 0 at the low end, 1 at the high one.
    fn part(&self, value: f64) -> f64 {
        let on = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(self.low).log10(),
            Scale::Nines => nines(value),
        };
        let width = on(self.high) - on(self.low);
        if width > 0.0 { (on(value) - on(self.low)) / width } else { 0.0 }
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_step(self.high / 5.0);
                (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.high).collect()
            }
            Scale::Logarithmic => {
                let powers = (self.low.log10().round() as i32)..=(self.high.log10().round() as i32);
                powers.map(|power| 10f64.powi(power)).collect()
            }
            Scale::Nines => {
                let tail = (1..).map(|digits| 1.0 - 10f64.powi(-digits));
                [0.0, 0.5].into_iter().chain(tail.take_while(|tick| *tick <= self.high + 1e-9).take(7)).collect()
            }
        }
    }
}

/// 0 at 0, 1 at 0.9, 2 at 0.99, …
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile.clamp(0.0, 1.0 - 1e-9)).log10()
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|round| *round >= step).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { label: "a".to_owned(), scale, form: |value| value.to_string() }
    }

    #[test]
    fn ticks_are_round() {
        let range = |scale, values: &[f64]| Range::of(scale, values.iter().copied()).ticks();
        assert_eq!(range(Scale::Linear, &[3.0, 9.0]), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(range(Scale::Logarithmic, &[3.0, 900.0]), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(range(Scale::Nines, &[0.0, 0.995]), [0.0, 0.5, 0.9, 0.99]);
        assert_eq!(range(Scale::Linear, &[]), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn each_nine_takes_the_same_room() {
        let range = Range { scale: Scale::Nines, low: 0.0, high: 0.9999 };
        for (quantile, part) in [(0.0, 0.0), (0.9, 0.25), (0.99, 0.5), (0.999, 0.75), (0.9999, 1.0)] {
            assert!((range.part(quantile) - part).abs() < 1e-6, "{quantile}");
        }
    }

    #[test]
    fn a_name_cannot_break_the_picture_nor_can_a_lack_of_points() {
        let series = vec![Series { name: "<a & \"b\">".to_owned(), points: Vec::new() }];
        let chart = Chart { title: "<t>".to_owned(), x: axis(Scale::Nines), y: axis(Scale::Logarithmic), series };
        let text = page("d", &[chart]);
        assert!(text.contains("&lt;a &amp; &quot;b&quot;&gt;") && !text.contains("NaN"), "{text}");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    }
}

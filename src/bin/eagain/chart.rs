//! Line charts in SVG, one below another, for `bench` and `compare`. The colours are those of the reader: light or
//! dark, by CSS.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
/// Of one chart, with its title and its labels.
const HEIGHT: f64 = 420.0;
/// The edges of what is drawn between the axes.
const LEFT: f64 = 76.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = HEIGHT - 100.0;
/// From the axis to the first row of names.
const LEGEND: f64 = 62.0;
/// A name's line, and a letter: wide ones fit too.
const KEY: f64 = 36.0;
const LETTER: f64 = 7.2;
/// As many as there are colours.
const COLOURS: usize = 6;
/// Points of a line that get a mark each.
const FEW: usize = 12;

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
    /// Values must be above 0.
    Logarithmic,
    /// Quantiles from 0 up to, but not including, 1: each further nine takes as much room as the one before.
    Nines,
    /// Whole numbers from 0 on, each the number of a thing that has a name.
    Names,
}

/// The label of the vertical one stands above the picture.
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// How a value is written at its tick.
    pub(crate) form: Box<dyn Fn(f64) -> String>,
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
        let x = |value| LEFT + across.part(value) * (RIGHT - LEFT);
        let y = |value| BOTTOM - up.part(value) * (BOTTOM - TOP);
        let _ = writeln!(text, "<text class=\"text title\" x=\"{LEFT}\" y=\"24\">{}</text>", escape(&self.title));
        self.grid(text, &across, &up, &x, &y);
        for (at, series) in self.styled() {
            line(text, at, series, &x, &y);
        }
        self.legend(text);
    }

    /// The axes with their names, and a line for each tick.
    fn grid(&self, text: &mut String, across: &Range, up: &Range, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
        for tick in up.ticks() {
            let (at, label) = (y(tick), escape(&(self.y.form)(tick)));
            let _ = writeln!(text, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>");
            let _ =
                writeln!(text, "<text class=\"soft end\" x=\"{}\" y=\"{:.1}\">{label}</text>", LEFT - 8.0, at + 4.0);
        }
        for tick in across.ticks() {
            let (at, label) = (x(tick), escape(&(self.x.form)(tick)));
            let _ = writeln!(text, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>");
            let _ = writeln!(text, "<text class=\"soft middle\" x=\"{at:.1}\" y=\"{}\">{label}</text>", BOTTOM + 20.0);
        }
        let _ = writeln!(text, "<path class=\"frame\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>");
        let (middle, below) = ((LEFT + RIGHT) / 2.0, BOTTOM + 40.0);
        let _ = writeln!(
            text,
            "<text class=\"soft middle\" x=\"{middle}\" y=\"{below}\">{}</text>\n\
             <text class=\"soft\" x=\"{LEFT}\" y=\"44\">{}</text>",
            escape(&self.x.label),
            escape(&self.y.label)
        );
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
        let (mut left, mut y) = (LEFT, BOTTOM + LEGEND);
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
    // Few points are told from the lines between them, and one alone would not be seen.
    for point in series.points.iter().filter(|_| series.points.len() <= FEW) {
        let (x, y) = (x(point.0), y(point.1));
        let _ = writeln!(text, "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>", class(at));
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
                let (low, high) = (round_below(low), round_above(high));
                (low, if high > low { high } else { 10.0 * low })
            }
            Scale::Nines => (0.0, high.max(0.9)),
            // Not at the very edge, and one alone is in the middle.
            Scale::Names => (-0.2, high + 0.2),
        };
        Range { scale, low, high }
    }

    /// 0 at the low end, 1 at the high one.
    fn part(&self, value: f64) -> f64 {
        let on = |value: f64| match self.scale {
            Scale::Linear | Scale::Names => value,
            Scale::Logarithmic => value.max(self.low).log10(),
            Scale::Nines => nines(value),
        };
        let width = on(self.high) - on(self.low);
        if width > 0.0 { (on(value) - on(self.low)) / width } else { 0.0 }
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_above(self.high / 5.0);
                (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.high).collect()
            }
            Scale::Logarithmic => {
                let digits: &[f64] = if self.high / self.low > MANY { &[1.0] } else { &DIGITS };
                let powers = (power_below(self.low)..).map(|power| 10f64.powi(power));
                let all = powers.flat_map(|power| digits.iter().map(move |digit| digit * power));
                let (low, high) = (self.low * 0.999, self.high * 1.001);
                all.skip_while(|tick| *tick < low).take_while(|tick| *tick <= high).collect()
            }
            Scale::Names => (0..).map(f64::from).take_while(|tick| *tick <= self.high).collect(),
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

/// Ticks are these times a power of ten; or the power alone, where the ends are more than so many times apart.
const DIGITS: [f64; 3] = [1.0, 2.0, 5.0];
const MANY: f64 = 1000.0;

/// The power of ten at or below; rounding of the logarithm does not take it one too low.
fn power_below(value: f64) -> i32 {
    (value.max(1e-12).log10() + 1e-9).floor() as i32
}

/// The greatest tick that is not above the value.
fn round_below(value: f64) -> f64 {
    let power = 10f64.powi(power_below(value));
    DIGITS.into_iter().map(|digit| digit * power).rfind(|tick| *tick <= value * 1.000_001).unwrap_or(power)
}

/// The least tick that is not below the value.
fn round_above(value: f64) -> f64 {
    let power = 10f64.powi(power_below(value));
    let next = DIGITS.into_iter().chain([10.0]).map(|digit| digit * power);
    next.into_iter().find(|tick| *tick >= value * 0.999_999).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { label: "a".to_owned(), scale, form: Box::new(|value| value.to_string()) }
    }

    #[test]
    fn ticks_are_round() {
        let range = |scale, values: &[f64]| Range::of(scale, values.iter().copied()).ticks();
        assert_eq!(range(Scale::Linear, &[3.0, 9.0]), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(range(Scale::Logarithmic, &[3.0, 90.0]), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(range(Scale::Logarithmic, &[0.7, 900.0]), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(range(Scale::Logarithmic, &[20.0]), [20.0, 50.0, 100.0, 200.0]);
        assert_eq!(range(Scale::Names, &[0.0, 2.0]), [0.0, 1.0, 2.0]);
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

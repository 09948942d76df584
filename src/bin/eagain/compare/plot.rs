//! A chart as SVG: one line for each model, over a logarithmic axis. It brings its own background, light or dark as the
//! reader's system is, and tells the lines apart by colour, mark and name.

use std::fmt::Write as _;

pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// What the lines are of, with its unit.
    pub(super) subtitle: &'a str,
    pub(super) below: &'a str,
    /// The places on the horizontal axis, in order.
    pub(super) places: Vec<String>,
    pub(super) lines: Vec<Line>,
}

/// A value at each place where there is one.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) values: Vec<Option<f64>>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 58.0;
/// Between two names at the right.
const NAME_HEIGHT: f64 = 17.0;

/// Told apart with any colour vision (after Okabe and Ito), and readable on white and on black.
const COLOURS: [&str; 5] = ["#d55e00", "#c9699f", "#c98f00", "#2f8fd8", "#0a9b72"];

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:16px;font-weight:600}\
    .small{font-size:12px;fill:#57606a}.ground{fill:#ffffff}.grid{stroke:#d8dee4}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}\
    .grid{stroke:#30363d}}";

impl Chart<'_> {
    pub(super) fn svg(&self) -> String {
        let scale = Scale::of(self.lines.iter().flat_map(|line| line.values.iter().flatten().copied()));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n\
             <text class=\"title\" x=\"16\" y=\"26\">{title}</text>\n\
             <text class=\"small\" x=\"16\" y=\"46\">{subtitle}</text>\n",
            title = escape(self.title),
            subtitle = escape(self.subtitle)
        );
        self.axes(&mut svg, &scale);
        for (index, line) in self.lines.iter().enumerate() {
            self.line(&mut svg, &scale, line, index);
        }
        self.names(&mut svg, &scale);
        svg + "</svg>\n"
    }

    fn x(&self, place: usize) -> f64 {
        let steps = (self.places.len() - 1).max(1) as f64;
        LEFT + 12.0 + (WIDTH - LEFT - RIGHT - 24.0) * place as f64 / steps
    }

    fn axes(&self, svg: &mut String, scale: &Scale) {
        for tick in scale.ticks() {
            let y = scale.y(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"small\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                number(tick)
            );
        }
        for (place, name) in self.places.iter().enumerate() {
            let _ = writeln!(
                svg,
                "<text class=\"small\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                self.x(place),
                HEIGHT - BOTTOM + 20.0,
                escape(name)
            );
        }
        let _ = writeln!(
            svg,
            "<text class=\"small\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 16.0,
            escape(self.below)
        );
    }

    fn line(&self, svg: &mut String, scale: &Scale, line: &Line, index: usize) {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<(f64, f64)> = line
            .values
            .iter()
            .enumerate()
            .filter_map(|(place, value)| Some((self.x(place), scale.y((*value)?))))
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (x, y) in points {
            let _ = writeln!(svg, "{}", mark(index, x, y, colour));
        }
    }

    /// The names, at the ends of their lines, moved apart where they would cover each other.
    fn names(&self, svg: &mut String, scale: &Scale) {
        let mut ends: Vec<(f64, usize)> = self
            .lines
            .iter()
            .enumerate()
            .filter_map(|(index, line)| Some((scale.y(line.values.iter().flatten().copied().last()?), index)))
            .collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = TOP;
        for place in 0..ends.len() {
            // Those that come behind need room too.
            let last = HEIGHT - BOTTOM - NAME_HEIGHT * (ends.len() - 1 - place) as f64;
            let y = ends[place].0.max(free).min(last.max(free));
            free = y + NAME_HEIGHT;
            let (index, x) = (ends[place].1, WIDTH - RIGHT + 14.0);
            let _ = writeln!(
                svg,
                "{}<text x=\"{}\" y=\"{:.1}\">{}</text>",
                mark(index, x, y, COLOURS[index % COLOURS.len()]),
                x + 10.0,
                y + 4.5,
                escape(&self.lines[index].name)
            );
        }
    }
}

fn mark(index: usize, x: f64, y: f64, colour: &str) -> String {
    let polygon = |corners: &[(f64, f64)]| {
        let corners: Vec<String> = corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
        format!("<polygon points=\"{}\" fill=\"{colour}\"/>", corners.join(" "))
    };
    match index % 5 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{colour}\"/>"),
        1 => polygon(&[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)]),
        2 => polygon(&[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)]),
        3 => polygon(&[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)]),
        _ => polygon(&[(0.0, 5.0), (5.0, -4.0), (-5.0, -4.0)]),
    }
}

/// Logarithmic, from a value with one digit (1, 2 or 5) to another.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values
            .filter(|value| value.is_finite() && *value > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
        if least > most {
            return Self { low: 1.0, high: 10.0 };
        }
        let low = steps(least / 10.0).take_while(|step| *step <= least).last().unwrap_or(least);
        let high = steps(most / 10.0).find(|step| *step >= most && *step > low).unwrap_or(most);
        Self { low, high }
    }

    fn y(&self, value: f64) -> f64 {
        let part = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low * 0.999, self.high * 1.001);
        steps(self.low / 10.0).skip_while(move |step| *step < low).take_while(move |step| *step <= high)
    }
}

/// 1, 2, 5, 10, 20, 50 … from a value not above `from` on.
fn steps(from: f64) -> impl Iterator<Item = f64> {
    let decade = from.max(f64::MIN_POSITIVE).log10().floor() as i32;
    (decade..).flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10.0_f64.powi(exponent)))
}

/// `0.5`, `20`, `5,000`, `2M`.
fn number(value: f64) -> String {
    match value {
        value if value >= 999_999.0 => format!("{}M", (value / 1e6).round()),
        value if value >= 999.0 => format!("{},{:03}", (value / 1e3).floor(), (value % 1e3).round()),
        value if value >= 0.99 => format!("{value:.0}"),
        value => format!("{value:.3}").trim_end_matches('0').to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_has_round_numbers_around_all_values() {
        let scale = Scale::of([3.1, 470.0].into_iter());
        assert_eq!((scale.low, scale.high), (2.0, 500.0));
        assert_eq!(scale.ticks().collect::<Vec<_>>(), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        assert_eq!((scale.y(2.0), scale.y(500.0)), (HEIGHT - BOTTOM, TOP));
        let one = Scale::of([20.0].into_iter());
        assert_eq!((one.low, one.high), (20.0, 50.0));
        assert!(Scale::of(std::iter::empty()).ticks().count() > 1);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.05, 0.5, 2.0, 500.0, 1000.0, 20_000.0, 1_000_000.0].map(number);
        assert_eq!(texts, ["0.05", "0.5", "2", "500", "1,000", "20,000", "1M"]);
    }

    #[test]
    fn a_place_without_a_value_is_passed_over() {
        let line = |name: &str, values: &[Option<f64>]| Line { name: name.to_owned(), values: values.to_vec() };
        let chart = Chart {
            title: "a < b",
            subtitle: "",
            below: "",
            places: ["0", "1", "2"].map(str::to_owned).to_vec(),
            lines: vec![line("one", &[Some(1.0), None, Some(3.0)]), line("none", &[None, None, None])],
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3, "two values and the name: {svg}");
    }
}

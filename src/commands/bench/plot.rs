//! Latency and throughput over time, as an SVG.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::latency::Point;
use super::outcome::Outcome;
use super::units::{count, time};

const SIZE: (u32, u32) = (960, 640);
const FONT: (&str, u32) = ("sans-serif", 14);
const TITLE: (&str, u32) = ("sans-serif", 18);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A curve: its name, its colour, and its values above 0 with the seconds at which they are.
type Curve = (&'static str, RGBColor, Vec<(f64, f64)>);

/// Sees whether the file can be written. What is in it stays; a new one is empty.
pub(super) fn try_open(path: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.create(true).append(true).open(path);
    opened.map(drop).map_err(|error| cannot_write(path, &error))
}

/// Writes both charts into a file.
pub(super) fn write(outcome: &Outcome, path: &Path) -> Result<()> {
    let svg = draw(&outcome.latencies.points)?;
    std::fs::write(path, svg).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("--plot: {}: {error}", path.display())
}

fn draw(points: &[Point]) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (upper, lower) = area.split_vertically(SIZE.1 / 2);
        let curve = |name, colour, of: &dyn Fn(&Point) -> Option<f64>| -> Curve {
            let at = |point: &Point| Some((point.at.as_secs_f64(), of(point)?));
            let values = points.iter().filter_map(at);
            (
                name,
                colour,
                values.filter(|(_, value)| *value > 0.0).collect(),
            )
        };
        let rate = |lines: u64, point: &Point| Some(lines as f64 / point.length.as_secs_f64());
        let latency = [
            curve("p50", BLUE, &|point| Some(point.latency?.0.as_secs_f64())),
            curve("p99", RED, &|point| Some(point.latency?.1.as_secs_f64())),
        ];
        let lines = [
            curve("in", BLUE, &|point| rate(point.sent, point)),
            curve("out", RED, &|point| rate(point.delivered, point)),
        ];
        let end = points.last().map_or(1.0, |point| point.at.as_secs_f64());
        let seconds = |value: &f64| time(Duration::from_secs_f64(value.max(0.0)));
        let per_second = |value: &f64| count(*value);
        chart(&upper, "Latency", end, &latency, &seconds)?;
        chart(&lower, "Lines a second", end, &lines, &per_second)?;
        area.present()?;
    }
    Ok(svg)
}

fn chart(
    area: &Area<'_>,
    title: &str,
    end: f64,
    curves: &[Curve],
    label: &dyn Fn(&f64) -> String,
) -> Result<()> {
    let (mut least, mut most) = (f64::MAX, 0.0_f64);
    for (_, value) in curves.iter().flat_map(|(.., values)| values) {
        (least, most) = (least.min(*value), most.max(*value));
    }
    if most == 0.0 {
        (least, most) = (1.0, 10.0);
    }
    // Both curves are to be seen, however far apart they are, between two powers of ten.
    let power = |exponent: f64| 10_f64.powf(exponent);
    let range = power(least.log10().floor())..power((most * 1.01).log10().ceil());
    let range = range.log_scale();
    let mut chart = ChartBuilder::on(area)
        .caption(title, TITLE)
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..end, range)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(FONT)
        .x_desc("seconds")
        .x_label_formatter(&|seconds| format!("{seconds:.1}"))
        .y_label_formatter(&label)
        .y_labels(8)
        .draw()?;
    for (name, colour, values) in curves {
        let line = LineSeries::new(values.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(*name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(FONT)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: u32) -> Vec<Point> {
        let point = |nth| Point {
            at: Duration::from_millis(100) * nth,
            length: Duration::from_millis(100),
            sent: u64::from(nth) * 10,
            delivered: u64::from(nth) * 1000,
            latency: (nth % 3 > 0).then(|| {
                let p50 = Duration::from_micros(u64::from(nth));
                (p50, p50 * 20)
            }),
        };
        (1..=count).map(point).collect()
    }

    #[test]
    fn both_charts_have_titles_and_legends_as_text() {
        let svg = draw(&points(20)).unwrap();
        for words in [
            "Latency",
            "p50",
            "p99",
            "Lines a second",
            "in",
            "out",
            "seconds",
        ] {
            let lines = svg.lines().map(str::trim);
            assert!(
                lines.filter(|line| *line == words).count() >= 1,
                "{words} in {svg}"
            );
        }
        assert!(svg.contains("<text"), "{svg}");
        assert_eq!(
            svg.matches("<polyline").count(),
            svg.matches("<polyline").count().max(4)
        );
    }

    #[test]
    fn nothing_measured_is_drawn_too() {
        assert!(draw(&[]).unwrap().ends_with("</svg>\n"));
    }
}

//! Charts as SVG: bars per arm with error bars, and lines over a parameter that grows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use super::{
    row::{Outcome, Row},
    table::figure,
};

/// Size of a chart in pixels.
const SIZE: (u32, u32) = (960, 480);
/// Parameters that lines are drawn over.
const GROWING: [&str; 3] = ["flows", "peers", "leases"];
const INK: RGBColor = RGBColor(0x30, 0x34, 0x3b);
const KERNEL: RGBColor = RGBColor(0x8a, 0x93, 0xa1);
const OURS: RGBColor = RGBColor(0x1b, 0x7f, 0x79);
const LIMIT: RGBColor = RGBColor(0xd9, 0xdd, 0xe3);
const LINES: [RGBColor; 8] = [
    RGBColor(0x8a, 0x93, 0xa1),
    RGBColor(0x1b, 0x7f, 0x79),
    RGBColor(0xc2, 0x5b, 0x2a),
    RGBColor(0x4a, 0x6f, 0xc3),
    RGBColor(0x9b, 0x4f, 0x96),
    RGBColor(0x6b, 0x8e, 0x23),
    RGBColor(0xb0, 0x8d, 0x1e),
    RGBColor(0x55, 0x55, 0x55),
];

/// Draws every chart that the rows give into the folder `dir`, and says which files were written.
pub fn draw(outcome: &Outcome, dir: &Path) -> Result<Vec<String>> {
    fs::create_dir_all(dir).with_context(|| format!("make folder {}", dir.display()))?;
    let mut written = Vec::new();
    let mut tables: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in &outcome.rows {
        let title = row.title();
        match tables.iter_mut().find(|(known, _)| *known == title) {
            Some((_, rows)) => rows.push(row),
            None => tables.push((title, vec![row])),
        }
    }
    for (title, rows) in &tables {
        let measured: Vec<&Row> = rows.iter().copied().filter(|row| row.median.is_some()).collect();
        if measured.len() > 1 {
            let file = format!("{}.svg", title.replace([' ', '='], "-"));
            bars(&dir.join(&file), title, &outcome.machine.title(), &measured)?;
            written.push(file);
        }
    }
    for (name, lines) in curves(&outcome.rows) {
        let file = format!("{}.svg", name.replace([' ', '='], "-"));
        curve_chart(&dir.join(&file), &name, &outcome.machine.title(), &lines)?;
        written.push(file);
    }
    Ok(written)
}

fn color(arm: &str) -> RGBColor {
    match arm {
        "limit" => LIMIT,
        "verified" | "verified-bridge" | "trusted" | "trusted-bridge" => OURS,
        _ => KERNEL,
    }
}

fn bars(path: &Path, title: &str, subtitle: &str, rows: &[&Row]) -> Result<()> {
    let top = rows.iter().filter_map(|row| row.max).fold(0.0, f64::max) * 1.15;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawn)?;
    let area = titled(&root, title, subtitle)?;
    let count = rows.len();
    let mut chart = ChartBuilder::on(&area)
        .margin_right(16)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(-0.5..count as f64 - 0.5, 0.0..top)
        .map_err(drawn)?;
    let label = |x: &f64| arm_at(rows, *x);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(count * 2 + 1)
        .x_label_formatter(&label)
        .y_label_formatter(&|y| figure(*y))
        .y_desc(rows[0].unit.as_str())
        .light_line_style(WHITE)
        .label_style(("sans-serif", 13, &INK))
        .draw()
        .map_err(drawn)?;
    for (index, row) in rows.iter().enumerate() {
        let Some(spread) = row.spread() else { continue };
        let x = index as f64;
        let bar = Rectangle::new([(x - 0.33, 0.0), (x + 0.33, spread.median)], color(&row.arm).filled());
        chart.draw_series([bar]).map_err(drawn)?;
        let whisker = ErrorBar::new_vertical(x, spread.min, spread.median, spread.max, INK.stroke_width(1), 10);
        chart.draw_series([whisker]).map_err(drawn)?;
        let style = ("sans-serif", 13, &INK).into_text_style(&root);
        let text = Text::new(caption(row, spread.median), (x - 0.33, spread.max + top * 0.045), style);
        chart.draw_series([text]).map_err(drawn)?;
    }
    root.present().map_err(drawn).with_context(|| format!("write {}", path.display()))
}

/// The arm whose bar stands at `x`; nothing between two bars.
fn arm_at(rows: &[&Row], x: f64) -> String {
    let is_center = (x - x.round()).abs() < 0.01 && x.round() >= 0.0;
    rows.get(x.round() as usize).filter(|_| is_center).map(|row| row.arm.clone()).unwrap_or_default()
}

/// What stands above a bar.
fn caption(row: &Row, median: f64) -> String {
    let ratio = row.ratio.map(|ratio| format!(" (×{ratio:.2})")).unwrap_or_default();
    format!("{}{ratio}", figure(median))
}

/// Rows that differ in one growing parameter only: name of the chart → arm → (parameter, row).
type Curves<'a> = BTreeMap<String, BTreeMap<String, Vec<(f64, &'a Row)>>>;

fn curves(rows: &[Row]) -> Curves<'_> {
    let mut found: Curves<'_> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.median.is_some()) {
        for growing in GROWING.iter().filter(|name| row.params.contains_key(**name)) {
            let Ok(value) = row.params[*growing].parse::<f64>() else { continue };
            let others = row.params.iter().filter(|(name, _)| name != growing).map(|(name, v)| format!(" {name}={v}"));
            let name = format!("{} over {growing}{}", row.workload, others.collect::<String>());
            found.entry(name).or_default().entry(row.arm.clone()).or_default().push((value, row));
        }
    }
    // Two points are a comparison that the bars show already.
    for points in found.values_mut().flat_map(BTreeMap::values_mut) {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    found.retain(|_, arms| {
        arms.values().flatten().map(|(value, _)| value.to_bits()).collect::<BTreeSet<u64>>().len() > 2
    });
    found
}

fn curve_chart(path: &Path, title: &str, subtitle: &str, arms: &BTreeMap<String, Vec<(f64, &Row)>>) -> Result<()> {
    let (top, last, unit) = extent(arms);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawn)?;
    let area = titled(&root, title, subtitle)?;
    let mut chart = ChartBuilder::on(&area)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d((1.0..last * 1.3).log_scale(), 0.0..top)
        .map_err(drawn)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(title.split(" over ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default())
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| figure(*y))
        .y_desc(unit)
        .label_style(("sans-serif", 13, &INK))
        .draw()
        .map_err(drawn)?;
    for ((arm, points), color) in arms.iter().zip(LINES.into_iter().cycle()) {
        let line = points.iter().filter_map(|(x, row)| Some((*x, row.median?)));
        let series = chart.draw_series(LineSeries::new(line, color.stroke_width(2))).map_err(drawn)?;
        series.label(arm).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        let whiskers = points.iter().filter_map(|(x, row)| {
            let spread = row.spread()?;
            Some(ErrorBar::new_vertical(*x, spread.min, spread.median, spread.max, color.filled(), 8))
        });
        chart.draw_series(whiskers).map_err(drawn)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .label_font(("sans-serif", 13, &INK))
        .draw()
        .map_err(drawn)?;
    root.present().map_err(drawn).with_context(|| format!("write {}", path.display()))
}

/// Largest value with some room above it, largest parameter, and unit.
fn extent(arms: &BTreeMap<String, Vec<(f64, &Row)>>) -> (f64, f64, String) {
    let points = || arms.values().flatten();
    let top = points().filter_map(|(_, row)| row.max).fold(0.0, f64::max) * 1.1;
    let last = points().map(|(x, _)| *x).fold(1.0, f64::max);
    (top, last, points().next().map(|(_, row)| row.unit.clone()).unwrap_or_default())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Writes title and machine on top, and gives the room that is left.
fn titled<'a>(root: &Area<'a>, title: &str, subtitle: &str) -> Result<Area<'a>> {
    let (head, body) = root.split_vertically(52);
    head.draw_text(title, &("sans-serif", 19, &INK).into_text_style(root), (16, 8)).map_err(drawn)?;
    let text = format!("median; bars show smallest and largest sample; {subtitle}");
    head.draw_text(&text, &("sans-serif", 11, &KERNEL).into_text_style(root), (16, 33)).map_err(drawn)?;
    Ok(body)
}

/// plotters' errors borrow what they draw on.
fn drawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw: {error}")
}

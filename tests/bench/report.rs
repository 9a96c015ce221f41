//! What was measured, as a table and as a page with plots.

use std::fmt::Write;

use crate::marks::judged;
use crate::results::{Results, Row};
use crate::systems::System;
use crate::workload::about;

/// For each workload a line for each system: medians, and how ours compares in CPU.
pub(crate) fn table(results: &Results) -> String {
    let mut text = String::new();
    for workload in results.workloads() {
        let _ = writeln!(text, "\n{workload}: {}", about(workload));
        let metrics = metrics(results, workload);
        let _ = write!(text, "  {:<14}", "");
        for metric in &metrics {
            let _ = write!(text, " {metric:>width$}", width = metric.len().max(10));
        }
        text.push_str("  ours / theirs\n");
        for row in sorted(results, workload) {
            let _ = write!(text, "  {:<14}", row.system);
            for metric in &metrics {
                let value = row.median(metric).map_or_else(|| "-".into(), figure);
                let _ = write!(text, " {value:>width$}", width = metric.len().max(10));
            }
            if let Some(ratio) = ratio(results, row) {
                let _ = write!(text, "  {ratio:.2}");
            }
            text.push('\n');
        }
    }
    text.push_str("\nmarks (medians of Outrider)\n");
    for mark in judged(results) {
        let ratio = mark
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2} ×"));
        let _ = writeln!(
            text,
            "  {:<12} {:<28} {:<26} {:>10} {ratio:>8}  {}",
            mark.workload,
            mark.metric,
            mark.asked,
            figure(mark.ours),
            if mark.holds { "holds" } else { "MISSED" },
        );
    }
    text
}

/// In the order in which the systems are listed, whoever was measured first.
pub(crate) fn sorted<'a>(results: &'a Results, workload: &'a str) -> Vec<&'a Row> {
    let place = |name: &str| System::ALL.iter().position(|system| system.name() == name);
    let mut rows: Vec<_> = results.of(workload).collect();
    rows.sort_by_key(|row| place(&row.system).unwrap_or(usize::MAX));
    rows
}

/// CPU first.
pub(crate) fn metrics(results: &Results, workload: &str) -> Vec<&'static str> {
    let mut metrics: Vec<_> = results.of(workload).flat_map(Row::metrics).collect();
    metrics.sort_unstable_by_key(|metric| (!metric.starts_with("cpu"), *metric));
    metrics.dedup();
    metrics
}

pub(crate) fn ratio(results: &Results, row: &Row) -> Option<f64> {
    let metric = row
        .metrics()
        .into_iter()
        .find(|metric| metric.starts_with("cpu"))?;
    let ours = results.median(System::OURS, &row.workload, metric)?;
    (row.system != System::OURS).then_some(ours / row.median(metric)?)
}

/// Three digits that count.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        _ if value == 0.0 => "0".into(),
        below if below < 1.0 => format!("{value:.3}"),
        below if below < 10.0 => format!("{value:.2}"),
        below if below < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:60em;color:#222}\
    h2{font-size:1.1em;margin:2em 0 .3em}table{border-collapse:collapse}\
    td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}.missed{color:#b00020}svg{display:block;margin:.5em 0}";

/// One file with everything in it: plots are SVG, and no script runs.
pub(crate) fn page(results: &Results) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Outrider: bench</title>\
         <style>{STYLE}</style><h1>Pairs of sidecars, side by side</h1>\
         <p>Medians of the rounds of one run. CPU is that of both proxies, over the requests that \
         the app counted.</p>"
    );
    html.push_str(&marks(results));
    for workload in results.workloads() {
        let _ = write!(html, "<h2>{workload}: {}</h2>", about(workload));
        let metrics = metrics(results, workload);
        for metric in &metrics {
            html.push_str(&plot(results, workload, metric));
        }
    }
    html.push_str("</html>\n");
    html
}

fn marks(results: &Results) -> String {
    let mut html = String::from(
        "<h2>Marks</h2><table><tr><th>workload<th>metric<th>mark<th>Outrider<th>ratio<th></tr>",
    );
    for mark in judged(results) {
        let (class, verdict) = match mark.holds {
            true => ("", "holds"),
            false => (" class=\"missed\"", "missed"),
        };
        let ratio = mark
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ = write!(
            html,
            "<tr{class}><td>{}<td>{}<td>{}<td>{}<td>{ratio}<td>{verdict}</tr>",
            mark.workload,
            mark.metric,
            mark.asked,
            figure(mark.ours),
        );
    }
    html + "</table>"
}

/// A bar for each system, with a dot for each round.
fn plot(results: &Results, workload: &str, metric: &str) -> String {
    const LINE: usize = 22;
    const LEFT: f64 = 130.0;
    const WIDTH: f64 = 520.0;
    let rows: Vec<(&Row, f64)> = sorted(results, workload)
        .into_iter()
        .filter_map(|row| Some((row, row.median(metric)?)))
        .collect();
    let rounds = rows.iter().flat_map(|(row, _)| &row.rounds);
    let most = rounds
        .filter_map(|round| round.get(metric))
        .fold(f64::MIN_POSITIVE, |most, value| most.max(*value));
    let height = LINE * (rows.len() + 1);
    let mut svg = format!(
        "<svg width=\"760\" height=\"{height}\" role=\"img\" font-size=\"13\">\
         <text x=\"0\" y=\"14\" font-weight=\"bold\">{metric}</text>"
    );
    let mut y = LINE;
    for (row, median) in rows {
        let fill = if row.system == System::OURS {
            "#0b6e4f"
        } else {
            "#9aa5b1"
        };
        let width = (median.max(0.0) / most * WIDTH).max(1.0);
        let text = y + 15;
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{text}\">{}</text><rect x=\"{LEFT}\" y=\"{}\" width=\"{width:.1}\" \
             height=\"14\" fill=\"{fill}\"/>",
            row.system,
            y + 4,
        );
        for value in row.rounds.iter().filter_map(|round| round.get(metric)) {
            let x = LEFT + value.max(0.0) / most * WIDTH;
            let _ = write!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{}\" r=\"2\" fill=\"#222\"/>",
                y + 11
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{text}\">{}</text>",
            LEFT + WIDTH + 10.0,
            figure(median)
        );
        y += LINE;
    }
    svg + "</svg>"
}

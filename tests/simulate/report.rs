//! The results as people read them: Markdown and SVG.

use std::fmt::Write;
use std::time::Duration;

use crate::measured::{Measured, STEP};
use crate::scenario::Scenario;

/// Name and colour, told apart also by who sees no colours: the lines differ in their dashes.
const POLICIES: [(&str, &str, &str); 3] = [
    ("no policy", "#767676", "2 2"),
    ("naive retries", "#c2570c", "6 3"),
    ("Outrider", "#1d4ed8", "none"),
];

pub(crate) type Results = Vec<(Scenario, [Measured; 3])>;

/// Markdown.
pub(crate) fn table(results: &mut Results) -> String {
    let mut table = String::from(
        "| scenario | policy | good | p50 | p99 | p99.9 | attempts per request | good again after |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (scenario, measured) in results {
        for ((policy, ..), measured) in POLICIES.iter().zip(measured) {
            let [median, p99, p999] = measured.latencies([500, 990, 999]).map(milliseconds);
            let recovery = match measured.recovery() {
                Some(time) if scenario.ends() => format!("{:.1} s", time.as_secs_f64()),
                None if scenario.ends() => "never".to_owned(),
                _ => String::new(),
            };
            // Writing to a String does not fail.
            let _ = writeln!(
                table,
                "| {} | {policy} | {:.2}% | {median} | {p99} | {p999} | {:.2} | {recovery} |",
                scenario.name,
                measured.goodput(),
                measured.amplification(),
            );
        }
    }
    table
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

/// The page around the table.
pub(crate) fn document(table: &str, seed: u64, seeds: u64) -> String {
    let last = seed + seeds - 1;
    format!(
        include_str!("page.md"),
        table = table,
        seed = seed,
        last = last
    )
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 130.0;
const MARGIN: (f64, f64) = (44.0, 34.0);

/// SVG: the share of good answers over time, a panel for each scenario.
pub(crate) fn plot(results: &Results) -> String {
    let rows = results.len().div_ceil(2);
    let (width, height) = (
        2.0 * (WIDTH + MARGIN.0) + 16.0,
        rows as f64 * (HEIGHT + 2.0 * MARGIN.1) + 30.0,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>Good answers over time, in percent</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, (name, colour, dashes)) in POLICIES.iter().enumerate() {
        let x = MARGIN.0 + 140.0 * at as f64;
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.0} 16h24\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>\
             <text x=\"{:.0}\" y=\"20\">{name}</text>",
            x + 30.0
        );
    }
    for (at, (scenario, measured)) in results.iter().enumerate() {
        let left = MARGIN.0 + (at % 2) as f64 * (WIDTH + MARGIN.0);
        let top = 30.0 + MARGIN.1 + (at / 2) as f64 * (HEIGHT + 2.0 * MARGIN.1);
        let _ = writeln!(svg, "<g transform=\"translate({left:.0} {top:.0})\">");
        panel(&mut svg, scenario, measured);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, scenario: &Scenario, measured: &[Measured; 3]) {
    let (x, y) = (
        |time: Duration| time.as_secs_f64() / scenario.length.as_secs_f64() * WIDTH,
        |percent: f64| HEIGHT * (1.0 - percent / 100.0),
    );
    let _ = writeln!(
        svg,
        "<text y=\"-10\" font-weight=\"bold\">{}</text>",
        scenario.name
    );
    for trouble in &scenario.troubles {
        let (from, until) = (x(trouble.from), x(trouble.until.min(scenario.length)));
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#fdecea\"/>",
            until - from
        );
    }
    for percent in [0.0, 50.0, 100.0] {
        let _ = writeln!(
            svg,
            "<path d=\"M0 {0:.1}h{WIDTH}\" stroke=\"#d4d4d4\"/>\
             <text x=\"-6\" y=\"{1:.1}\" text-anchor=\"end\">{percent}%</text>",
            y(percent),
            y(percent) + 4.0
        );
    }
    for second in (0..=scenario.length.as_secs()).step_by(5) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second} s</text>",
            x(Duration::from_secs(second)),
            HEIGHT + 14.0
        );
    }
    for ((_, colour, dashes), measured) in POLICIES.iter().zip(measured) {
        let points = measured
            .curve()
            .into_iter()
            .zip(0u32..)
            .map(|(percent, step)| format!("{:.1},{:.1}", x(STEP * step + STEP / 2), y(percent)));
        let points: Vec<String> = points.collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"{dashes}\"/>",
            points.join(" ")
        );
    }
}

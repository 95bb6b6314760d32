//! The summary as a picture, for a README: a row for each area, a column for each broker. It runs
//! nothing.

use std::fmt::Write;

use super::Report;
use super::html::{Row, escaped, rows};

/// Sizes in pixels.
const LABEL: usize = 300;
const COLUMN: usize = 190;
const ROW: usize = 20;
const HEAD: usize = 50;

/// Draws how many cases of each area passed, of those that were tried.
pub fn picture(reports: &[Report]) -> String {
    let areas = rows(reports);
    let (width, height) = (LABEL + COLUMN * reports.len() + 10, HEAD + ROW * (areas.len() + 1) + 10);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (i, report) in reports.iter().enumerate() {
        let (x, broker) = (LABEL + COLUMN * i + (COLUMN - 8) / 2, &report.broker);
        text(&mut out, x, 20, &broker.name, "middle", "600");
        text(&mut out, x, 36, &format!("{}, {}", broker.profile, broker.date), "middle", "400");
    }
    let all: Vec<&Row<'_>> = areas.iter().flat_map(|(_, cases)| cases).collect();
    row(&mut out, 0, "all", &all, reports.len());
    for (i, (area, cases)) in areas.iter().enumerate() {
        row(&mut out, i + 1, area, &cases.iter().collect::<Vec<_>>(), reports.len());
    }
    out.push_str("</svg>\n");
    out
}

fn row(out: &mut String, index: usize, area: &str, cases: &[&Row<'_>], runs: usize) {
    let y = HEAD + ROW * index;
    text(out, LABEL - 10, y + 14, area, "end", if index == 0 { "600" } else { "400" });
    for run in 0..runs {
        let tried = || cases.iter().filter_map(|row| row.run(run)).filter(|line| !line.skipped());
        let (passed, all) = (tried().filter(|line| line.passed()).count(), tried().count());
        let (x, room) = (LABEL + COLUMN * run, COLUMN - 8);
        let filled = (passed * room).checked_div(all).unwrap_or(0);
        let _written = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{room}\" height=\"{}\" fill=\"#eceff3\"/>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{filled}\" height=\"{0}\" fill=\"#a9dcb9\"/>",
            ROW - 3
        );
        let shown = if all == 0 { "skipped".to_owned() } else { format!("{passed} of {all}") };
        text(out, x + room / 2, y + 13, &shown, "middle", "400");
    }
}

fn text(out: &mut String, x: usize, y: usize, words: &str, anchor: &str, weight: &str) {
    let words = escaped(words);
    let _written = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\" fill=\"#1d2430\">{words}</text>"
    );
}

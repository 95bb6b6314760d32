//! The HTML report: a matrix of runs side by side, one column a broker, with what failed unfolded.
//! It runs nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Line, Report};

const STYLE: &str = include_str!("style.css");

/// Text that is safe inside HTML and XML, attributes included. Control characters become `?`.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push('?'),
            // No characters of XML.
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

/// An area's name as a place in the page.
fn anchor(area: &str) -> String {
    let part = |c: char| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    area.chars().map(part).collect()
}

/// One page for one or several runs of the same suite.
pub fn page(reports: &[Report]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>AMQP 0-9-1 conformance</title>\n<style>\n{STYLE}</style>\n<h1>AMQP 0-9-1 conformance</h1>\n"
    );
    let rows = rows(reports);
    summary(&mut out, reports, &rows);
    out.push_str(
        "<p class=\"key\"><i class=\"pass\"></i> pass <i class=\"soft\"></i> pass, but for a reply text \
         <i class=\"known\"></i> fails, known <i class=\"fail\"></i> fails <i class=\"skipped\"></i> skipped</p>\n",
    );
    for (area, cases) in &rows {
        let (place, area) = (anchor(area), escaped(area));
        let _written = writeln!(out, "<h2 id=\"{place}\">{area}</h2>\n<table class=\"cases\">");
        header(&mut out, reports);
        cases.iter().for_each(|case| row(&mut out, case));
        out.push_str("</table>\n");
    }
    out.push_str("</html>\n");
    out
}

/// A case and what each run says of it.
pub(super) struct Row<'a> {
    first: &'a Line,
    runs: Vec<Option<&'a Line>>,
}

impl<'a> Row<'a> {
    /// Returns the line of one run, if it has the case.
    pub(super) fn run(&self, run: usize) -> Option<&'a Line> {
        self.runs.get(run).copied().flatten()
    }
}

/// Areas in the order of the suite, their cases likewise.
pub(super) fn rows(reports: &[Report]) -> Vec<(&str, Vec<Row<'_>>)> {
    let mut areas: Vec<(&str, Vec<Row<'_>>)> = Vec::new();
    let mut places: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (run, report) in reports.iter().enumerate() {
        for line in &report.cases {
            let place = places.get(line.id.as_str()).copied().unwrap_or_else(|| {
                let area = areas.iter().position(|(area, _)| *area == line.area).unwrap_or_else(|| {
                    areas.push((&line.area, Vec::new()));
                    areas.len() - 1
                });
                let case = areas.get(area).map_or(0, |(_, cases)| cases.len());
                if let Some((_, cases)) = areas.get_mut(area) {
                    cases.push(Row { first: line, runs: vec![None; reports.len()] });
                }
                places.insert(&line.id, (area, case));
                (area, case)
            });
            let row = areas.get_mut(place.0).and_then(|(_, cases)| cases.get_mut(place.1));
            if let Some(cell) = row.and_then(|row| row.runs.get_mut(run)) {
                *cell = Some(line);
            }
        }
    }
    areas
}

fn class(line: Option<&Line>) -> &'static str {
    match line {
        None => "absent",
        Some(line) if line.skipped() => "skipped",
        Some(line) if line.passed() && line.texts => "pass",
        Some(line) if line.passed() => "soft",
        Some(line) if line.known.is_some() => "known",
        Some(_) => "fail",
    }
}

fn summary(out: &mut String, reports: &[Report], rows: &[(&str, Vec<Row<'_>>)]) {
    out.push_str("<table class=\"summary\">\n");
    header(out, reports);
    let mut sums = vec![(0, 0); reports.len()];
    let mut body = String::new();
    for (area, cases) in rows {
        let _written = write!(body, "<tr><td><a href=\"#{}\">{}</a></td>", anchor(area), escaped(area));
        for (run, sum) in sums.iter_mut().enumerate() {
            let lines = || cases.iter().filter_map(|row| row.run(run));
            let tried = lines().filter(|line| !line.skipped()).count();
            let passed = lines().filter(|line| line.passed()).count();
            *sum = (sum.0 + passed, sum.1 + tried);
            let share = (passed * 100).checked_div(tried).unwrap_or(0);
            let _written = match tried {
                0 => write!(body, "<td class=\"share skipped\"><span>skipped</span></td>"),
                _ => write!(
                    body,
                    "<td class=\"share\"><b style=\"width:{share}%\"></b><span>{passed} of {tried}</span></td>"
                ),
            };
        }
        body.push_str("</tr>\n");
    }
    let _written = write!(out, "<tr class=\"total\"><td>all</td>");
    for (passed, tried) in sums {
        let _written = write!(out, "<td class=\"share\"><span>{passed} of {tried}</span></td>");
    }
    out.push_str("</tr>\n");
    out.push_str(&body);
    out.push_str("</table>\n");
}

fn header(out: &mut String, reports: &[Report]) {
    out.push_str("<tr><th></th>");
    for report in reports {
        let broker = &report.broker;
        let _written = write!(
            out,
            "<th>{}<small>{}</small><small>{}</small></th>",
            escaped(&broker.name),
            escaped(&broker.profile),
            escaped(&broker.date)
        );
    }
    out.push_str("</tr>\n");
}

/// So much of a line is shown: a field table can be 100 KB.
const SHOWN: usize = 400;

fn lines<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let cut = |line: &'a str| match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or("")),
        None => line.to_owned(),
    };
    lines.map(cut).collect::<Vec<_>>().join("\n")
}

fn row(out: &mut String, row: &Row<'_>) {
    let line = row.first;
    let _written = write!(
        out,
        "<tr><td><details><summary>{}</summary><p><code>{}</code> <cite>{}</cite></p>",
        escaped(&line.claim),
        escaped(&line.id),
        escaped(&line.source)
    );
    for line in row.runs.iter().flatten() {
        if line.reason.is_empty() && line.known.is_none() {
            continue;
        }
        let known = line.known.as_ref().map_or_else(String::new, |known| format!("known: {known}\n"));
        // Of what is known to fail nobody reads the conversation, and the JSON report has it.
        let talk =
            if line.known.is_some() { String::new() } else { lines(line.conversation.iter().map(String::as_str)) };
        let text = escaped(&format!("{known}{}\n{talk}", lines(line.reason.lines())));
        let _written = write!(out, "<pre>{}: {}</pre>", line.verdict, text.trim_end());
    }
    out.push_str("</details></td>");
    for line in &row.runs {
        let title = line.map_or("", |line| line.known.as_deref().unwrap_or(&line.reason));
        let title: String = title.chars().take(SHOWN).collect();
        let _written = write!(out, "<td class=\"{}\" title=\"{}\"></td>", class(*line), escaped(&title));
    }
    out.push_str("</tr>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Broker, junit, svg};

    fn report(verdict: &str, reason: &str, conversation: &str) -> Report {
        let text = |text: &str| text.to_owned();
        let (name, id) = ("<\"&'\u{1}", "a.b");
        let line = Line {
            id: text(id),
            area: text("The <x> & \"y\""),
            claim: text("It."),
            source: text("spec"),
            verdict: text(verdict),
            reason: text(reason),
            ms: 1,
            texts: true,
            known: None,
            conversation: vec![text(conversation)],
        };
        let broker = Broker {
            name: text(name),
            product: text(name),
            version: text("1"),
            profile: text("spec"),
            date: text("2026-11-30"),
        };
        Report { broker, cases: vec![line] }
    }

    #[test]
    fn no_text_breaks_a_report() {
        let nasty = "</pre><script>\" onclick='x' ]]> \u{0}\u{1b}[31m\u{9b}\u{fffe}\u{ffff} \r é";
        let reports = [report("fail", nasty, nasty), report("skipped", nasty, nasty)];
        let outputs = [page(&reports), junit::xml(&reports[0]), junit::xml(&reports[1]), svg::picture(&reports)];
        for output in &outputs {
            assert!(!output.contains("<script") && !output.contains("<x>") && !output.contains("\" onclick"));
            let odd = |c: char| c.is_control() && c != '\n' && c != '\t' || matches!(c, '\u{fffe}' | '\u{ffff}');
            assert!(!output.contains(odd), "{output}");
        }
        assert!(outputs[0].contains("<a href=\"#the--x-----y-\">") && outputs[0].contains("<h2 id=\"the--x-----y-\">"));
        assert!(outputs[0].contains("<span>skipped</span>") && outputs[0].contains("0 of 1"));
    }
}

//! The JUnit report, as CI servers read it: a suite for each area. It runs nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::html::escaped;
use super::{Line, Report};

/// The report as JUnit XML. A known failure is a skipped test; a known failure that passes is a
/// failed one.
pub fn xml(report: &Report) -> String {
    let mut areas: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in &report.cases {
        areas.entry(&line.area).or_default().push(line);
    }
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let name = escaped(&report.broker.name);
    let _written = writeln!(out, "<testsuites name=\"{name}\">");
    for (area, lines) in areas {
        let count = |wanted: fn(&Line) -> bool| lines.iter().filter(|line| wanted(line)).count();
        let seconds = lines.iter().map(|line| line.ms).sum::<u64>() as f64 / 1000.0;
        let _written = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\">",
            escaped(area),
            lines.len(),
            count(failed),
            count(skipped),
        );
        lines.iter().for_each(|line| case(&mut out, line));
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn failed(line: &Line) -> bool {
    !line.skipped() && line.passed() == line.known.is_some()
}

fn skipped(line: &Line) -> bool {
    line.skipped() || !line.passed() && line.known.is_some()
}

fn case(out: &mut String, line: &Line) {
    let (area, id, seconds) = (escaped(&line.area), escaped(&line.id), line.ms as f64 / 1000.0);
    let _written = write!(out, "    <testcase classname=\"{area}\" name=\"{id}\" time=\"{seconds:.3}\"");
    let known = line.known.as_deref().unwrap_or("");
    let _written = match () {
        () if skipped(line) => {
            let why = if known.is_empty() { line.reason.clone() } else { format!("known: {known}") };
            writeln!(out, "><skipped message=\"{}\"/></testcase>", escaped(&why))
        }
        () if failed(line) => {
            let why = if line.passed() { format!("passes, but is listed: {known}") } else { line.claim.clone() };
            let talk = line.conversation.join("\n");
            let text = escaped(&format!("{}\n{}\n{talk}", line.source, line.reason));
            writeln!(out, "><failure message=\"{}\">{text}</failure></testcase>", escaped(&why))
        }
        () => writeln!(out, "/>"),
    };
}

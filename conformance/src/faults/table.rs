//! The table of `FAULTS.md`: which cases catch which fault. Text both ways; it knows no fault and
//! no case.

use std::fmt::Write;

/// Text above the table.
const HEAD: &str = "\
# What the suite catches

A proxy between the suite and a good broker plays a bad one: one fault at a time, in what goes either way. A fault that no
case notices is a hole in the suite. The cases that are named failed with the fault and passed without it, and a test sees to
it that they still do; the number is how many did when this table was written.
`--fault NAME` plays one; a fault of a reply text alone is caught with `--strict-texts`.

";

/// One fault and who catches it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The fault's name.
    pub fault: String,
    /// Description of the fault.
    pub does: String,
    /// The first cases that catch it.
    pub cases: Vec<String>,
    /// How many do in all.
    pub count: usize,
}

/// The whole file.
pub fn render(rows: &[Row]) -> String {
    let mut out = HEAD.to_owned();
    let _written =
        writeln!(out, "{} faults.\n\n| fault | what is wrong | caught by | cases |\n|---|---|---|---|", rows.len());
    for row in rows {
        let cases: Vec<String> = row.cases.iter().map(|id| format!("`{id}`")).collect();
        let _written = writeln!(out, "| `{}` | {} | {} | {} |", row.fault, row.does, cases.join(", "), row.count);
    }
    out
}

/// The rows of the file. Lines that are no row are prose.
pub fn parse(text: &str) -> Vec<Row> {
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
    let [fault, does, cases, count] = cells.as_slice() else { return None };
    let cases = cases.split(", ").map(|id| id.trim_matches('`').to_owned()).filter(|id| !id.is_empty()).collect();
    Some(Row {
        fault: fault.trim_end_matches('`').to_owned(),
        does: (*does).to_owned(),
        cases,
        count: count.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let row = |fault: &str, cases: &[&str], count| Row {
            fault: fault.to_owned(),
            does: "It is wrong.".to_owned(),
            cases: cases.iter().map(|id| (*id).to_owned()).collect(),
            count,
        };
        let rows = [row("a", &["x.y", "z.w"], 7), row("b", &["x.y"], 1), row("c", &[], 0)];
        assert_eq!(parse(&render(&rows)), rows);
    }
}

//! The report at the end of a run: a table for people, an object for programs.

use crate::latency::Percentiles;
use serde_json::{Map, Value, json};
use std::fmt::{self, Display};

/// Results of a run.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// Lines of the table: what, and how much of it.
    pub table: Vec<(&'static str, String)>,
    /// The same for programs.
    pub object: Map<String, Value>,
    /// Why the run failed; empty if it did not.
    pub faults: Vec<String>,
}

impl RunReport {
    /// A report of a mode.
    pub fn new(mode: &'static str, broker: &str) -> RunReport {
        RunReport {
            table: vec![("broker", broker.to_owned())],
            object: Map::from_iter([("mode".to_owned(), mode.into()), ("broker".to_owned(), broker.into())]),
            faults: Vec::new(),
        }
    }

    /// Adds a line.
    pub fn line(&mut self, what: &'static str, text: String) {
        self.table.push((what, text));
    }

    /// Adds a field.
    pub fn field(&mut self, name: &'static str, value: impl Into<Value>) {
        self.object.insert(name.to_owned(), value.into());
    }

    /// Adds a distribution of latencies, as a line and as a field in us.
    pub fn latency(&mut self, what: &'static str, name: &'static str, latency: Percentiles) {
        if latency.count > 0 {
            self.line(what, spread(latency));
        }
        self.field(name, latency);
    }

    /// The whole object, with `ok` and `faults`.
    pub fn json(&self) -> Value {
        let mut fields = self.object.clone();
        fields.insert("ok".to_owned(), self.faults.is_empty().into());
        fields.insert("faults".to_owned(), json!(self.faults));
        Value::Object(fields)
    }
}

impl Display for RunReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.table.iter().map(|(what, _)| what.len()).max().unwrap_or(0).max("FAILED".len());
        for (what, text) in &self.table {
            writeln!(out, "{what:width$}  {text}")?;
        }
        for fault in &self.faults {
            writeln!(out, "{:width$}  {fault}", "FAILED")?;
        }
        Ok(())
    }
}

impl From<Percentiles> for Value {
    /// In us.
    fn from(latency: Percentiles) -> Value {
        let Percentiles { count, p50, p90, p99, p999, max, mean } = latency;
        let points = [("mean", mean), ("p50", p50), ("p90", p90), ("p99", p99), ("p999", p999), ("max", max)];
        let points = points.into_iter().map(|(name, value)| (name.to_owned(), thousandths(value)));
        Value::Object(std::iter::once(("count".to_owned(), count.into())).chain(points).collect())
    }
}

/// A number for JSON, rounded: more than three digits behind the point say more than was measured.
/// Not finite: null.
pub fn thousandths(number: f64) -> Value {
    ((number * 1e3).round() / 1e3).into()
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate or another number of which the digits behind the point do not count, if it is not small.
pub fn rounded(number: f64) -> String {
    if number < 10.0 { format!("{number:.2}") } else { grouped(number.round() as u64) }
}

/// A time given in us, in the unit that fits.
pub fn time(micros: f64) -> String {
    match micros {
        micros if micros < 1e3 => format!("{micros:.0} us"),
        micros if micros < 1e6 => format!("{:.2} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}

/// A distribution in one line.
pub fn spread(latency: Percentiles) -> String {
    let Percentiles { p50, p90, p99, p999, max, .. } = latency;
    format!("p50 {}  p90 {}  p99 {}  p99.9 {}  max {}", time(p50), time(p90), time(p99), time(p999), time(max))
}

/// Per second; 0 for no time.
pub fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_json() {
        let mut report = RunReport::new("load", "Some \"broker\"\n1");
        report.field("n", 3u64);
        report.field("x", thousandths(0.12345));
        report.field("nothing", None::<u64>);
        report.field("nan", thousandths(f64::NAN));
        report.latency("latency", "latency_us", Percentiles { count: 1, p50: 2.0, ..Percentiles::default() });
        report.faults.push("lost 1".to_owned());
        let text = report.json().to_string();
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["broker"], "Some \"broker\"\n1");
        assert_eq!((&parsed["n"], &parsed["x"]), (&3.into(), &0.123.into()));
        assert!(parsed["nothing"].is_null() && parsed["nan"].is_null());
        assert_eq!(parsed["latency_us"]["p50"], 2.0);
        assert_eq!((&parsed["ok"], &parsed["faults"][0]), (&false.into(), &"lost 1".into()));
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([grouped(0), grouped(999), grouped(1000), grouped(1234567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([rounded(0.5), rounded(12345.6)], ["0.50", "12,346"]);
        assert_eq!([time(999.0), time(1500.0), time(2.5e6)], ["999 us", "1.50 ms", "2.50 s"]);
    }

    #[test]
    fn the_table_is_aligned() {
        let mut report = RunReport::new("load", "b");
        report.line("a long name", "1".to_owned());
        report.faults.push("x".to_owned());
        assert_eq!(report.to_string(), "broker       b\na long name  1\nFAILED       x\n");
    }
}

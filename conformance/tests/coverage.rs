//! Holds COVERAGE.md to the table of methods and to the cases: nothing is left out, and what is
//! named is there.

use std::collections::{BTreeMap, BTreeSet};

use conformance::case::Case;
use conformance::peer::method;
use conformance::suite;

/// Returns the methods that a line sends or receives, each with the text in which its fields stand.
fn named(line: &str) -> Vec<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let rest = |from: usize| words.get(from..).unwrap_or(&[]).join(" ");
    let pair = |name: &str, text: String| (name.to_owned(), text);
    match words.as_slice() {
        ["repeat", _, ..] => named(&rest(2)),
        ["send" | "call", _, name, ..] => vec![pair(name, rest(3))],
        ["ok", _, name, ..] => vec![pair(name, rest(3)), pair(&format!("{name}-ok"), rest(3))],
        ["publish", ..] => vec![pair("basic.publish", rest(2).replace("key=", "routing-key="))],
        ["store", ..] => vec![pair("basic.publish", rest(1).replace("key=", "routing-key="))],
        ["get", ..] => vec![pair("basic.get", rest(2))],
        ["drained", ..] => vec![pair("basic.get", rest(1))],
        ["login", ..] => ["start-ok", "tune-ok"].map(|name| pair(&format!("connection.{name}"), rest(1))).to_vec(),
        // What is heard: `1 basic.return ...`, or `b| 1 basic.return ...`.
        [conn, _, name, ..] if conn.ends_with('|') => vec![pair(name, rest(3))],
        [_, name, ..] if name.contains('.') => vec![pair(name, rest(2))],
        _ => Vec::new(),
    }
}

fn lines(case: &Case) -> impl Iterator<Item = &String> {
    case.steps.iter().flat_map(|step| std::iter::once(&step.text).chain(step.expected.iter().flat_map(|a| &a.lines)))
}

fn names(case: &Case, method: &str) -> Vec<String> {
    let all = lines(case).flat_map(|line| named(line));
    all.filter(|(name, _)| name == method).map(|(_, text)| text).collect()
}

/// Returns true if a text names a field: `name=`, or a bit's name alone.
fn has(text: &str, field: &str) -> bool {
    let assigned = format!("{field}=");
    text.split_whitespace().any(|word| word == field || word.starts_with(&assigned))
}

/// Returns true if a case publishes or receives a content with a property.
fn has_property(case: &Case, property: &str) -> bool {
    let (given, heard) = (format!("{property}: "), format!("{property}="));
    lines(case).any(|line| {
        let given =
            line.contains("props={") && (line.contains(&format!("{{{given}")) || line.contains(&format!(" {given}")));
        given || line.contains(&format!("{{{heard}"))
    })
}

/// Rows of COVERAGE.md: method and field (empty for the method itself), and the ids of cases.
fn rows() -> BTreeMap<(String, String), Vec<String>> {
    let text = include_str!("../COVERAGE.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| method")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [method, field, ids] = cells.as_slice() else { panic!("three cells expected: {line}") };
        let ids = ids.split(", ").filter(|id| !id.is_empty()).map(str::to_owned).collect();
        let twice = rows.insert(((*method).to_owned(), (*field).to_owned()), ids);
        assert!(twice.is_none(), "{method} {field} is there twice");
    }
    rows
}

#[test]
fn every_method_and_field_has_cases() {
    let mut rows = rows();
    let cases: BTreeMap<String, Case> =
        suite::cases().unwrap().into_iter().map(|case| (case.id.clone(), case)).collect();
    let mut faults = BTreeSet::new();
    let mut take = |method: &str, field: &str, shows: &dyn Fn(&Case) -> (bool, bool)| {
        let ids = rows.remove(&(method.to_owned(), field.to_owned())).unwrap_or_default();
        let mut is_shown = false;
        for id in &ids {
            let Some(case) = cases.get(id) else {
                faults.insert(format!("{method} {field}: there is no case {id}"));
                continue;
            };
            let (mentioned, shown) = shows(case);
            is_shown |= shown;
            if !mentioned {
                faults.insert(format!("{method} {field}: {id} says nothing of {method}"));
            }
        }
        if !is_shown {
            faults.insert(format!("{method} {field}: no case shows it"));
        }
    };
    for (method, fields) in method::methods() {
        take(method, "", &|case| (!names(case, method).is_empty(), !names(case, method).is_empty()));
        for field in fields {
            take(method, field, &|case| {
                let texts = names(case, method);
                (!texts.is_empty(), texts.iter().any(|text| has(text, field)))
            });
        }
    }
    for property in method::properties() {
        take("content", property, &|case| (has_property(case, property), has_property(case, property)));
    }
    faults.extend(rows.keys().map(|(method, field)| format!("{method} {field} is in no table of methods")));
    assert!(faults.is_empty(), "{}", faults.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_line_names_its_method() {
    assert_eq!(named("ok 1 tx.select").len(), 2);
    assert_eq!(named("b| 1 basic.return reply-code=312"), [("basic.return".to_owned(), "reply-code=312".to_owned())]);
    assert!(has("queue=q~ no-ack", "no-ack") && !has("queue=q~ no-ack", "ack"));
}

//! The house rules that no compiler checks, read off the text of `src/` and `conformance/src/`: who may import whom, who may name what, and how long
//! things may be. It knows only as much of Rust's grammar as that takes, and relies on rustfmt for the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, highest first. A floor may import any lower one, and none beside it.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["server", "perf"],
    &["session"],
    &["broker"],
    &["queue"],
    &["outbox"],
    &["routing", "message", "store"],
    &["wire", "config"],
    &["limits", "clock", "counters", "window"],
];

/// Imports that the order of the floors would allow, and that are not meant to be.
const FORBIDDEN: &[(&str, &str)] = &[
    ("routing", "wire"),
    ("message", "wire"),
    ("store", "wire"),
    ("store", "config"),
    // The load generator shares nothing with the broker but the octets.
    ("perf", "session"),
    ("perf", "broker"),
    ("perf", "queue"),
    ("perf", "outbox"),
    ("perf", "routing"),
    ("perf", "message"),
    ("perf", "config"),
    ("perf", "clock"),
    ("perf", "counters"),
    ("perf", "window"),
];

/// What may be named, and by whom: files, or directories with a slash at the end.
const RESERVED: &[(&str, &[&str])] = &[
    ("nom::", &["wire/"]),
    ("amq_protocol", &["wire/"]),
    ("tokio::net", &["server/"]),
    ("tokio::io", &["server/"]),
    ("tokio::time", &["server/"]),
    ("tokio::spawn", &["server/"]),
    ("tokio::signal", &["cli/"]),
    ("std::net::Tcp", &["perf/"]),
    ("std::time", &["clock.rs", "server/", "perf/", "cli/perf.rs", "store/mod.rs", "store/journal.rs"]),
    ("std::thread", &["perf/", "store/mod.rs"]),
    ("rustix::", &["store/real.rs", "server/lone.rs"]),
    ("crc32c::", &["store/"]),
    ("#[allow(", &[]),
    ("#![allow(", &[]),
    ("unsafe ", &[]),
    (".unwrap()", &[]),
    (".expect(", &[]),
    ("panic!(", &[]),
    ("unreachable!(", &[]),
    ("todo!(", &[]),
    ("println!(", &[]),
    ("dbg!(", &[]),
];

/// What nobody may name in the conformance suite, which has no floors.
const SUITE_FORBIDDEN: &[&str] = &[
    "leveret",
    "tokio",
    "#[allow(",
    "#![allow(",
    "unsafe ",
    ".unwrap()",
    ".expect(",
    "panic!(",
    "unreachable!(",
    "todo!(",
    "println!(",
    "dbg!(",
];

/// The parts that only decide, and what they do not name.
const PURE: &[&str] = &[
    "queue/core.rs",
    "queue/lanes.rs",
    "queue/consumers.rs",
    "outbox/ledger.rs",
    "window.rs",
    "message.rs",
    "routing/",
    "perf/batch.rs",
    "perf/layout.rs",
    "perf/pace.rs",
    "perf/stamp.rs",
    "perf/track.rs",
];
const IMPURE: &[&str] =
    &["clock", "tokio", "std::time", "std::io", "Mutex", "RwLock", "Atomic", "getrandom", "tracing"];

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// One file of `src/`.
struct File {
    /// Relative to `src/`.
    name: String,
    text: String,
    /// The text up to its tests, without comments and without what strings hold.
    code: String,
    /// Where it stands in the crate: `["queue", "core"]`.
    module: Vec<String>,
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// The broker's house.
fn house() -> Vec<File> {
    house_at("src")
}

/// The suite's, next door.
fn suite() -> Vec<File> {
    house_at("conformance/src")
}

fn house_at(place: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
    let mut paths = Vec::new();
    rust_files(&root, &mut paths);
    // A file of tests alone is no room of the house.
    paths.retain(|path| path.file_name().is_some_and(|name| name != "tests.rs"));
    let file = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(path).unwrap();
        let code = code(before_tests(&text));
        let module = name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').map(str::to_owned).collect();
        File { name, text, code, module }
    };
    paths.iter().map(file).collect()
}

/// The lines before the module of tests.
fn before_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..=at])
}

/// Blanks comments and the insides of strings and characters; lines stay lines.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(hashes) =
            raw_string(rest).filter(|_| !out.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
        } else if next == '"' {
            quoted(rest, '"')
        } else if next == '\'' && character(rest) {
            quoted(rest, '\'')
        } else {
            out.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        out.push(' ');
        out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    out
}

/// How many hashes a raw string begins with.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?;
    let quote = hashes.trim_start_matches('#');
    quote.starts_with('"').then(|| hashes.len() - quote.len())
}

/// Whether a quote begins a character and no lifetime.
fn character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let first = chars.next();
    first == Some('\\') || chars.next() == Some('\'')
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A reader of paths: `a::b::{c, d::e}` is `a::b::c` and `a::b::d::e`.
struct Paths<'a>(&'a str);

impl<'a> Paths<'a> {
    fn word(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    fn eat(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// All paths that go on from `base`, with `::` already read.
    fn tree(&mut self, base: &[String], found: &mut Vec<Vec<String>>) {
        if self.eat("{") {
            while !self.eat("}") {
                let before = self.0.len();
                self.tree(base, found);
                self.eat(",");
                if self.0.len() == before {
                    return;
                }
            }
            return;
        }
        self.0 = self.0.trim_start();
        match self.word() {
            "" | "self" => {
                self.eat("*");
                found.push(base.to_vec());
            }
            word => {
                let path = [base, &[word.to_owned()]].concat();
                if word == "super" || !self.eat("::") { found.push(path) } else { self.tree(&path, found) }
            }
        }
        if self.eat("as ") {
            self.0 = self.0.trim_start();
            self.word();
        }
    }
}

impl File {
    fn floor(&self) -> &str {
        &self.module[0]
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.name == *place || (place.ends_with('/') && self.name.starts_with(place)))
    }

    /// Every path of this crate that it names.
    fn paths(&self) -> Vec<Vec<String>> {
        let parent = self.module[..self.module.len() - 1].to_vec();
        let roots = [("crate", Vec::new()), ("leveret", Vec::new()), ("super", parent), ("self", self.module.clone())];
        let mut found = Vec::new();
        for (word, base) in roots {
            let start = format!("{word}::");
            for (at, _) in self.code.match_indices(&start) {
                let inside = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$';
                if !self.code[..at].ends_with(inside) {
                    Paths(&self.code[at + start.len()..]).tree(&base, &mut found);
                }
            }
        }
        found
    }

    /// Whether an item of that name is written here.
    fn defines(&self, item: &str) -> bool {
        const KINDS: &[&str] = &["struct", "enum", "trait", "fn", "const", "static", "type", "macro_rules"];
        let words = self.code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        words.windows(2).any(|pair| KINDS.contains(&pair[0]) && pair[1] == item)
    }
}

/// The file that a path leads to, and the first name behind it.
fn resolve<'a, 'b>(files: &'a [File], path: &'b [String]) -> Option<(&'a File, Option<&'b str>)> {
    (1..=path.len()).rev().find_map(|length| {
        let file = files.iter().find(|file| file.module == path[..length])?;
        Some((file, path.get(length).map(String::as_str)))
    })
}

fn height(floor: &str) -> usize {
    let at = FLOORS.iter().position(|level| level.contains(&floor));
    at.unwrap_or_else(|| panic!("{floor} is on no floor: put it into FLOORS"))
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// All files but the crate's map.
fn rooms(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.name != "lib.rs")
}

#[test]
fn imports_go_down() {
    let files = house();
    let mut faults = Vec::new();
    for file in rooms(&files) {
        for path in file.paths() {
            let (from, to) = (file.floor(), path.first().map_or("", String::as_str));
            if to.is_empty() || !files.iter().any(|other| other.floor() == to) {
                continue;
            }
            let goes_down = from == to || height(from) < height(to);
            if !goes_down || FORBIDDEN.contains(&(from, to)) {
                faults.push(format!("{}: {from} may not import {}", file.name, path.join("::")));
            }
        }
    }
    none(faults);
}

#[test]
fn imports_name_the_file_that_defines() {
    let files = house();
    let mut faults = Vec::new();
    for file in rooms(&files) {
        for path in file.paths() {
            let fault = match resolve(&files, &path) {
                Some((_, None)) => false,
                Some((target, Some(item))) => !target.defines(item),
                None => true,
            };
            if fault {
                faults.push(format!("{}: crate::{} is not defined there", file.name, path.join("::")));
            }
        }
    }
    none(faults);
}

#[test]
fn no_circle_of_files() {
    none(circles(&house()));
    none(circles(&suite()));
}

fn circles(files: &[File]) -> Vec<String> {
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in rooms(files) {
        let paths = file.paths();
        let targets = paths.iter().filter_map(|path| resolve(files, path)).map(|(target, _)| target.name.as_str());
        edges.insert(&file.name, targets.filter(|target| *target != file.name).collect());
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|from| (*from, reach(&edges, from))).collect();
    let circle = |from: &&str| -> Vec<&str> {
        let both = |to: &&&str| reached[*from].contains(**to) && reached[**to].contains(*from);
        edges.keys().filter(both).copied().collect()
    };
    let circles: BTreeSet<Vec<&str>> = edges.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    circles.iter().map(|circle| circle.join(" <-> ")).collect()
}

/// Everything that imports lead to from there, in one step or more.
fn reach<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = edges[from].iter().copied().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(edges.get(file).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn names_stay_where_they_belong() {
    let mut faults = Vec::new();
    for file in house() {
        for (name, places) in RESERVED {
            for (at, _) in file.code.match_indices(name) {
                let inside = |c: char| c.is_alphanumeric() || c == '_';
                let part_of_a_word = name.starts_with(inside) && file.code[..at].ends_with(inside);
                if !(part_of_a_word || file.is_in(places)) {
                    let line = file.code[..at].matches('\n').count() + 1;
                    faults.push(format!("{}:{line}: `{}` belongs to {places:?}", file.name, name.trim_end()));
                }
            }
        }
    }
    none(faults);
}

#[test]
fn the_suite_knows_no_broker_and_never_panics() {
    let mut faults = Vec::new();
    for file in suite() {
        let named = SUITE_FORBIDDEN.iter().filter(|name| file.code.contains(**name));
        faults.extend(named.map(|name| format!("conformance: {} names `{}`", file.name, name.trim_end())));
    }
    none(faults);
}

#[test]
fn what_decides_knows_no_world() {
    let files = house();
    for place in PURE {
        assert!(files.iter().any(|file| file.is_in(&[place])), "{place} is gone");
    }
    let pure = files.iter().filter(|file| file.is_in(PURE));
    let named = |file: &File, name: &&&str| file.code.contains(**name);
    let faults = pure.flat_map(|file| {
        IMPURE.iter().filter(move |name| named(file, name)).map(|name| format!("{} names {name}", file.name))
    });
    none(faults.collect());
}

#[test]
fn every_file_says_what_it_is() {
    let mut paths = Vec::new();
    for directory in
        ["src", "tests", "examples", "benches", "fuzz/fuzz_targets", "conformance/src", "conformance/tests"]
    {
        rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut paths);
    }
    let silent = |path: &&PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        !(first.starts_with("//! ") && first.len() > 20)
    };
    none(paths.iter().filter(silent).map(|path| path.display().to_string()).collect());
}

#[test]
fn files_and_functions_are_short() {
    let mut faults = Vec::new();
    for file in house().into_iter().chain(suite()) {
        let lines: Vec<&str> = before_tests(&file.text).lines().collect();
        if lines.len() > FILE_LINES {
            faults.push(format!("{}: {} lines without tests, {FILE_LINES} are allowed", file.name, lines.len()));
        }
        for (at, line) in lines.iter().enumerate() {
            let indent = &line[..line.len() - line.trim_start().len()];
            let words: Vec<&str> = line.trim_start().split(' ').take_while(|word| *word != "fn").collect();
            let modifier =
                |word: &&str| ["const", "async", "unsafe", "extern"].contains(word) || word.starts_with("pub");
            let rest = line.trim_start().split(' ').nth(words.len());
            if rest != Some("fn") || !words.iter().all(modifier) {
                continue;
            }
            // Its last line is the first one as far left as its first that closes something.
            let end = lines[at..].iter().position(|line| {
                let rest = line.strip_prefix(indent).unwrap_or(" ");
                !rest.starts_with(' ') && (rest.ends_with('}') || rest.ends_with(';'))
            });
            let length = end.map_or(0, |end| end + 1);
            if length > FUNCTION_LINES {
                faults.push(format!(
                    "{}:{}: a function of {length} lines, {FUNCTION_LINES} are allowed",
                    file.name,
                    at + 1
                ));
            }
        }
    }
    none(faults);
}

#[test]
fn the_map_holds_no_code() {
    let files = house();
    let map = files.iter().find(|file| file.name == "lib.rs").unwrap();
    let other = map.code.lines().map(str::trim).filter(|line| !line.is_empty());
    none(
        other
            .filter(|line| !["#![", "pub mod ", "pub use "].iter().any(|start| line.starts_with(start)))
            .map(str::to_owned)
            .collect(),
    );
    for file in rooms(&files).filter(|file| file.floor() != "main") {
        let listed = map.code.contains(&format!("pub mod {};", file.floor()));
        assert!(listed, "{} is not on the map", file.name);
    }
}

mod itself {
    //! The rules are only as good as the reading.

    use super::{Paths, code};

    #[test]
    fn comments_and_strings_are_blanked() {
        let text = "a(\"x // \\\" y\", 'q', '\\'', b'\"') // unsafe\n/* b\n */ r#\"un\"safe\"# fn f<'a>(x: &'a str) {}";
        let code = code(text);
        assert_eq!(code.lines().count(), 3);
        assert!(!code.contains("unsafe") && !code.contains("un\"") && !code.contains('y'), "{code}");
        assert!(code.contains("fn f<'a>(x: &'a str) {}"), "{code}");
    }

    #[test]
    fn trees_of_imports_are_unfolded() {
        let mut found = Vec::new();
        Paths("a::{self, b::{C, D as E}, f::*, G};").tree(&[], &mut found);
        let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
        assert_eq!(found, ["a", "a::b::C", "a::b::D", "a::f", "a::G"]);
    }
}

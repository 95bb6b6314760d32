//! Rules of this workspace that no compiler checks, over the syntax trees of its files: who may
//! import whom, who may name what, how long things may be, and how docs begin.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, Item, ItemFn, ItemUse, Macro, Signature, TraitItemFn, UseTree};

/// The layers of the broker, highest first. A layer may import any lower one, and none beside it.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["server"],
    &["session"],
    &["broker"],
    &["queue"],
    &["outbox"],
    &["routing", "message"],
    &["config"],
    &["clock", "counters", "escaped", "memory", "metrics", "offload", "sequence_map"],
    &["limits"],
];

/// Names with the files that may use them; a slash ends a directory.
const RESERVED: &[(&str, &[&str])] = &[
    ("nom::", &["leveret-wire/"]),
    ("amq_protocol", &["leveret-wire/"]),
    ("tokio::net", &["server/listener.rs", "server/transport.rs"]),
    ("tokio::io", &["server/reader.rs", "server/transport.rs"]),
    (
        "tokio::time",
        &["clock.rs", "server/connection.rs", "server/listener.rs", "server/transport.rs", "cli/signals.rs"],
    ),
    ("tokio::spawn", &["server/"]),
    ("tokio::signal", &["cli/signals.rs"]),
    ("std::net::Tcp", &["leveret-perf/"]),
    (
        "std::time",
        &[
            "clock.rs",
            "server/",
            "leveret-perf/",
            "cli/perf.rs",
            "cli/log/",
            "cli/signals.rs",
            "leveret-journal/lib.rs",
            "leveret-journal/signal.rs",
        ],
    ),
    (
        "std::thread",
        &[
            "cli/log/",
            "cli/signals.rs",
            "leveret-perf/",
            "leveret-journal/signal.rs",
            "leveret-journal/lib.rs",
            "server/store_check.rs",
        ],
    ),
    (
        "rustix::",
        &[
            "leveret-journal/real.rs",
            "leveret-journal/error.rs",
            "server/inline_commit.rs",
            "server/transport.rs",
            "server/descriptors.rs",
            "cli/log/",
        ],
    ),
    ("crc32c::", &["leveret-journal/"]),
    // Who routes, publishes, consumes or settles does not ask what kind of queue it is.
    ("queue::core", &["queue/"]),
    ("queue::delivery", &["queue/"]),
    ("QueueType", &["queue/", "broker/queues.rs", "broker/definitions.rs"]),
    ("#[allow(", &[]),
    ("#![allow(", &[]),
    ("unsafe{", &["allocator.rs"]),
    ("unsafe impl", &["allocator.rs"]),
    (".unwrap()", &[]),
    (".expect(", &[]),
    ("panic!(", &[]),
    ("unreachable!(", &[]),
    ("todo!(", &[]),
    ("println!(", &[]),
    ("dbg!(", &[]),
];

/// Names that the conformance suite does not use.
const SUITE_FORBIDDEN: &[&str] = &[
    "leveret",
    "tokio",
    "#[allow(",
    "#![allow(",
    "unsafe{",
    "unsafe fn",
    "unsafe impl",
    ".unwrap()",
    ".expect(",
    "panic!(",
    "unreachable!(",
    "todo!(",
    "println!(",
    "dbg!(",
];

/// Modules that only decide, and names that they do not use.
const PURE: &[&str] = &[
    "queue/core.rs",
    "queue/ready.rs",
    "queue/consumers.rs",
    "outbox/deliveries.rs",
    "sequence_map.rs",
    "message.rs",
    "routing/",
    "leveret-perf/batch.rs",
    "leveret-perf/layout.rs",
    "leveret-perf/pace.rs",
    "leveret-perf/stamp.rs",
    "leveret-perf/track.rs",
];
const IMPURE: &[&str] =
    &["clock", "tokio", "std::time", "std::io", "Mutex", "RwLock", "Atomic", "getrandom", "tracing"];

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const COMMENT_COLUMNS: usize = 100;

/// Words that say nothing of an item: a doc begins with a verb in the third person or with a noun.
const PRONOUNS: &[&str] = &["It", "What", "Who", "Whoever", "Whether", "That", "Has", "This", "Whose"];

/// Files, or beginnings of their paths, whose docs and comments do not keep to the rules yet.
const UNREVISED: &[&str] = &["src/outbox/", "src/queue/", "src/server/"];

/// A source file.
struct File {
    /// Path below its `src`, with the crate's name in front for all crates but the broker's.
    name: String,
    text: String,
    /// Its code without modules of tests.
    code: Code,
    found: Found,
    /// Place in the crate: `["queue", "core"]`.
    module: Vec<String>,
}

/// Tokens as text: blanks stand only between words, strings are empty, comments are gone.
#[derive(Default)]
struct Code {
    text: String,
    /// Octets at which a token begins, and its line.
    lines: Vec<(usize, usize)>,
}

impl Code {
    fn of(tokens: TokenStream) -> Code {
        let mut code = Code::default();
        code.append(tokens);
        code
    }

    fn append(&mut self, tokens: TokenStream) {
        for token in tokens {
            let line = token.span().start().line;
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("(", ")"),
                        Delimiter::Brace => ("{", "}"),
                        Delimiter::Bracket => ("[", "]"),
                        Delimiter::None => ("", ""),
                    };
                    self.push(open, line);
                    self.append(group.stream());
                    self.push(close, line);
                }
                TokenTree::Ident(word) => self.push(&word.to_string(), line),
                TokenTree::Punct(mark) => self.push(&mark.to_string(), line),
                TokenTree::Literal(literal) => {
                    let literal = literal.to_string();
                    self.push(if literal.contains(['"', '\'']) { "\"\"" } else { &literal }, line);
                }
            }
        }
    }

    fn push(&mut self, token: &str, line: usize) {
        if self.text.ends_with(in_word) && token.starts_with(in_word) {
            self.text.push(' ');
        }
        self.lines.push((self.text.len(), line));
        self.text.push_str(token);
    }

    fn line(&self, at: usize) -> usize {
        let next = self.lines.partition_point(|(start, _)| *start <= at);
        self.lines[next - 1].1
    }

    /// Lines that use a name. Where it begins with a word, that word is whole.
    fn lines_with(&self, name: &str) -> Vec<usize> {
        let found = self.text.match_indices(name);
        let whole = |at: usize| !(name.starts_with(in_word) && self.text[..at].ends_with(in_word));
        found.filter(|(at, _)| whole(*at)).map(|(at, _)| self.line(at)).collect()
    }
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Paths and functions of a file.
#[derive(Default)]
struct Found {
    paths: Vec<Vec<String>>,
    /// First and last line of each function.
    functions: Vec<(usize, usize)>,
}

impl Found {
    /// Adds the paths of a tree of imports: `a::{b, c as d}` has `a::b` and `a::c`.
    fn unfold(&mut self, tree: &UseTree, base: &[String]) {
        let with = |name: &syn::Ident| [base, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.unfold(&path.tree, &with(&path.ident)),
            UseTree::Name(name) if name.ident == "self" => self.paths.push(base.to_vec()),
            UseTree::Name(name) => self.paths.push(with(&name.ident)),
            UseTree::Rename(rename) => self.paths.push(with(&rename.ident)),
            UseTree::Glob(_) => self.paths.push(base.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.unfold(tree, base)),
        }
    }

    /// Adds the paths in the tokens of a macro's call.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons): (Vec<String>, usize) = (Vec::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(word) if colons == 2 => path.push(word.to_string()),
                TokenTree::Ident(word) => {
                    self.paths.push(std::mem::replace(&mut path, vec![word.to_string()]));
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.paths.push(std::mem::take(&mut path));
                    self.tokens(group.stream());
                }
                _ => self.paths.push(std::mem::take(&mut path)),
            }
            colons = 0;
        }
        self.paths.push(path);
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        self.functions.push((signature.span().start().line, block.span().end().line));
    }
}

impl<'ast> Visit<'ast> for Found {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.unfold(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.function(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

/// First lines of docs, each with its line.
#[derive(Default)]
struct Docs(Vec<(usize, String)>);

impl<'ast> Visit<'ast> for Docs {
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return };
        if !pair.path.is_ident("doc") {
            return;
        }
        if let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value {
            let line = attribute.span().start().line;
            let follows = self.0.last().is_some_and(|(last, _)| *last + 1 == line);
            match self.0.last_mut() {
                Some((last, _)) if follows => *last = line,
                _ => self.0.push((line, text.value().trim().to_owned())),
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// Every Rust file of the workspace, and the fuzz targets.
fn all_paths() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for directory in
        ["src", "crates", "tests", "examples", "benches", "fuzz/fuzz_targets", "conformance/src", "conformance/tests"]
    {
        rust_files(&root().join(directory), &mut paths);
    }
    paths
}

/// The broker's files.
static BROKER: LazyLock<Vec<File>> = LazyLock::new(|| files_in("src"));

/// The crates that the broker is made of, each with its name in front of its files' names.
static CRATES: LazyLock<Vec<Vec<File>>> = LazyLock::new(|| {
    let of = |name: &&str| {
        let mut files = files_in(&format!("crates/{name}/src"));
        files.iter_mut().for_each(|file| file.name = format!("{name}/{}", file.name));
        files
    };
    ["leveret-wire", "leveret-journal", "leveret-perf"].iter().map(of).collect()
});

/// The conformance suite's files.
static SUITE: LazyLock<Vec<File>> = LazyLock::new(|| files_in("conformance/src"));

/// The broker and its crates.
fn everything() -> impl Iterator<Item = &'static File> {
    BROKER.iter().chain(CRATES.iter().flatten())
}

fn files_in(place: &str) -> Vec<File> {
    let directory = root().join(place);
    let mut paths = Vec::new();
    rust_files(&directory, &mut paths);
    paths.retain(|path| path.file_name().is_some_and(|name| name != "tests.rs"));
    let file = |path: &PathBuf| {
        let name = path.strip_prefix(&directory).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(path).unwrap();
        let mut tree = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        tree.items.retain(|item| !is_test_module(item));
        let (code, mut found) = (Code::of(tree.to_token_stream()), Found::default());
        found.visit_file(&tree);
        let module = name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').map(str::to_owned).collect();
        File { name, text, code, found, module }
    };
    paths.iter().map(file).collect()
}

fn is_test_module(item: &Item) -> bool {
    let Item::Mod(module) = item else { return false };
    module.attrs.iter().any(|attribute| Code::of(attribute.to_token_stream()).text == "#[cfg(test)]")
}

/// The lines before the module of tests.
fn before_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..=at])
}

impl File {
    fn layer(&self) -> &str {
        &self.module[0]
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.name == *place || (place.ends_with('/') && self.name.starts_with(place)))
    }

    /// Paths into its own crate, without the leading `crate`.
    fn paths(&self) -> Vec<Vec<String>> {
        let parent = &self.module[..self.module.len() - 1];
        let inside = |path: &Vec<String>| {
            let (first, rest) = path.split_first()?;
            let base = match first.as_str() {
                "crate" | "leveret" => &[][..],
                "super" => parent,
                "self" => &self.module,
                _ => return None,
            };
            (!rest.is_empty()).then(|| [base, rest].concat())
        };
        self.found.paths.iter().filter_map(inside).collect()
    }

    /// Returns true if an item of that name is written here.
    fn defines(&self, item: &str) -> bool {
        const KINDS: &[&str] = &["mod", "struct", "enum", "trait", "fn", "const", "static", "type"];
        let is_defined = |kind: &&str| {
            let definition = format!("{kind} {item}");
            let ends = |at: usize| !self.code.text[at + definition.len()..].starts_with(in_word);
            self.code.text.match_indices(&definition).any(|(at, _)| ends(at))
        };
        KINDS.iter().any(is_defined) || self.code.text.contains(&format!("macro_rules!{item}{{"))
    }
}

/// Returns the file that a path leads to, and the first name behind it.
fn resolve<'a, 'b>(files: &'a [File], path: &'b [String]) -> Option<(&'a File, Option<&'b str>)> {
    (1..=path.len()).rev().find_map(|length| {
        let file = files.iter().find(|file| file.module == path[..length])?;
        Some((file, path.get(length).map(String::as_str)))
    })
}

fn height(layer: &str) -> usize {
    let at = LAYERS.iter().position(|level| level.contains(&layer));
    at.unwrap_or_else(|| panic!("{layer} is in no layer: put it into LAYERS"))
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Returns all files but `lib.rs`.
fn modules(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.module != ["lib"])
}

#[test]
fn imports_go_down() {
    let files = &*BROKER;
    let mut faults = Vec::new();
    for file in modules(files) {
        for path in file.paths() {
            let (from, to) = (file.layer(), path.first().map_or("", String::as_str));
            if to.is_empty() || !files.iter().any(|other| other.layer() == to) {
                continue;
            }
            let goes_down = from == to || height(from) < height(to);
            if !goes_down {
                faults.push(format!("{}: {from} may not import {}", file.name, path.join("::")));
            }
        }
    }
    none(faults);
}

#[test]
fn imports_name_the_file_that_defines() {
    let mut faults = Vec::new();
    for files in CRATES.iter().chain([&*BROKER]) {
        for file in modules(files) {
            for path in file.paths() {
                let fault = match resolve(files, &path) {
                    Some((_, None)) => false,
                    Some((target, Some(item))) => !target.defines(item),
                    None => true,
                };
                if fault {
                    faults.push(format!("{}: crate::{} is not defined there", file.name, path.join("::")));
                }
            }
        }
    }
    none(faults);
}

#[test]
fn no_cycle_of_files() {
    none(cycles(&BROKER));
    none(cycles(&SUITE));
    none(CRATES.iter().flat_map(|files| cycles(files)).collect());
}

fn cycles(files: &[File]) -> Vec<String> {
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in modules(files) {
        let paths = file.paths();
        let targets = paths.iter().filter_map(|path| resolve(files, path)).map(|(target, _)| target.name.as_str());
        edges.insert(&file.name, targets.filter(|target| *target != file.name).collect());
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|from| (*from, reach(&edges, from))).collect();
    let cycle = |from: &&str| -> Vec<&str> {
        let both = |to: &&&str| reached[*from].contains(**to) && reached[**to].contains(*from);
        edges.keys().filter(both).copied().collect()
    };
    let cycles: BTreeSet<Vec<&str>> = edges.keys().map(cycle).filter(|cycle| !cycle.is_empty()).collect();
    cycles.iter().map(|cycle| cycle.join(" <-> ")).collect()
}

/// Returns everything that imports lead to from there, in one step or more.
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
    for file in everything() {
        for (name, places) in RESERVED {
            let lines = if file.is_in(places) { Vec::new() } else { file.code.lines_with(name) };
            faults.extend(lines.iter().map(|line| format!("{}:{line}: `{name}` belongs to {places:?}", file.name)));
        }
    }
    none(faults);
}

#[test]
fn the_suite_knows_no_broker_and_never_panics() {
    let mut faults = Vec::new();
    for file in SUITE.iter() {
        let named = SUITE_FORBIDDEN.iter().filter(|name| file.code.text.contains(**name));
        faults.extend(named.map(|name| format!("conformance: {} names `{}`", file.name, name)));
    }
    none(faults);
}

#[test]
fn pure_modules_name_no_effects() {
    let files: Vec<&File> = everything().collect();
    for place in PURE {
        assert!(files.iter().any(|file| file.is_in(&[place])), "{place} is gone");
    }
    let pure = files.iter().filter(|file| file.is_in(PURE));
    let named = |file: &File, name: &&&str| file.code.text.contains(**name);
    let faults = pure.flat_map(|file| {
        IMPURE.iter().filter(move |name| named(file, name)).map(|name| format!("{} names {name}", file.name))
    });
    none(faults.collect());
}

#[test]
fn every_file_says_what_it_is() {
    let silent = |path: &&PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        !(first.starts_with("//! ") && first.len() > 20)
    };
    none(all_paths().iter().filter(silent).map(|path| path.display().to_string()).collect());
}

/// Path below the workspace's root of a file that has to keep the rules of docs.
fn revised(path: &Path) -> Option<String> {
    let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
    (!UNREVISED.iter().any(|start| name.starts_with(start))).then_some(name)
}

#[test]
fn docs_begin_with_a_verb_or_a_noun() {
    let mut faults = Vec::new();
    for path in all_paths() {
        let Some(name) = revised(&path) else { continue };
        let tree = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut docs = Docs::default();
        docs.visit_file(&tree);
        for (line, text) in docs.0 {
            let word = text.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
            if PRONOUNS.contains(&word) {
                faults.push(format!("{name}:{line}: the doc begins with {word}"));
            }
        }
    }
    none(faults);
}

#[test]
fn comments_are_not_wide() {
    let mut faults = Vec::new();
    for path in all_paths() {
        let Some(name) = revised(&path) else { continue };
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let columns = line.chars().count();
            if line.trim_start().starts_with("//") && columns > COMMENT_COLUMNS {
                faults.push(format!("{name}:{}: a comment of {columns} columns", number + 1));
            }
        }
    }
    none(faults);
}

#[test]
fn files_and_functions_are_short() {
    let mut faults = Vec::new();
    for file in everything().chain(SUITE.iter()) {
        let lines = before_tests(&file.text).lines().count();
        if lines > FILE_LINES {
            faults.push(format!("{}: {lines} lines without tests, {FILE_LINES} are allowed", file.name));
        }
        for (first, last) in &file.found.functions {
            let length = last + 1 - first;
            if length > FUNCTION_LINES {
                faults
                    .push(format!("{}:{first}: a function of {length} lines, {FUNCTION_LINES} are allowed", file.name));
            }
        }
    }
    none(faults);
}

#[test]
fn the_root_of_the_crate_holds_no_code() {
    let files = &*BROKER;
    let map = files.iter().find(|file| file.name == "lib.rs").unwrap();
    let is_code = |item: &&Item| match item {
        Item::Mod(module) => module.content.is_some(),
        item => !matches!(item, Item::Use(_)),
    };
    let tree = syn::parse_file(&map.text).unwrap();
    none(tree.items.iter().filter(is_code).map(|item| Code::of(item.to_token_stream()).text).collect());
    let is_hidden = |module: &syn::ItemMod| module.attrs.iter().any(|attr| attr.path().is_ident("doc"));
    let modules_of = |item: &Item| match item {
        Item::Mod(module) if !is_hidden(module) => Some(module.ident.to_string()),
        _ => None,
    };
    let face: Vec<String> = tree.items.iter().filter_map(modules_of).collect();
    assert_eq!(face, ["clock", "config"], "a module that is not hidden is a promise to whoever embeds a broker");
    // The program's own: the library has no allocator.
    for file in modules(files).filter(|file| !matches!(file.layer(), "main" | "allocator")) {
        assert!(map.defines(file.layer()), "{} is not declared in lib.rs", file.name);
    }
}

mod itself {
    //! Tests of the reading that the rules rely on.

    use super::{Code, Docs, Found};
    use syn::visit::Visit;

    #[test]
    fn comments_and_strings_are_gone() {
        let text = "fn f<'a>(x: &'a str) { a(\"x // \\\" y\", 'q', b\"\"); // unsafe\n/* b\n */ r#\"un\"safe\"#; }";
        let code = Code::of(text.parse().unwrap());
        assert_eq!(code.text, "fn f<'a>(x:&'a str){a(\"\",\"\",\"\");\"\";}");
        assert_eq!((code.lines_with("a("), code.lines_with("(x"), code.lines_with("tr")), (vec![1], vec![1], vec![]));
        assert_eq!(code.line(code.text.len() - 2), 3);
    }

    #[test]
    fn paths_are_found_in_imports_types_and_macros() {
        let text = "use a::{self, b::{C, D as E}, f::*, G}; fn f() -> crate::x::Y { m!(crate::p::Q(z), 1) }";
        let mut found = Found::default();
        found.visit_file(&syn::parse_file(text).unwrap());
        let paths: Vec<String> = found.paths.iter().map(|path| path.join("::")).collect();
        for path in ["a", "a::b::C", "a::b::D", "a::f", "a::G", "crate::x::Y", "crate::p::Q"] {
            assert!(paths.iter().any(|found| found == path), "{path}: {paths:?}");
        }
        assert_eq!(found.functions, [(1, 1)]);
    }

    #[test]
    fn docs_count_by_their_first_line() {
        let text = "//! A.\n//! It.\n\n/// It is.\n/// More.\nstruct S {\n    /// What.\n    a: u8,\n}";
        let mut docs = Docs::default();
        docs.visit_file(&syn::parse_file(text).unwrap());
        let first: Vec<&str> = docs.0.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(first, ["A.", "It is.", "What."]);
    }
}

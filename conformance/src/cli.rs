//! The command line: what is asked, the live progress, the summary and the exit code. It plays no
//! case itself.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};

use crate::case::Case;
use crate::faults::{self, proxy::Proxy};
use crate::known::Known;
use crate::play::draft;
use crate::play::state::Stage;
use crate::profile::Profile;
use crate::report::{Report, html, junit, svg};
use crate::restart::Restarts;
use crate::runner::{Outcome, Run, Verdict};
use crate::suite;
use crate::target::Target;

/// Plays thousands of conversations with an AMQP 0-9-1 broker, frame by frame, and says where it is
/// not as the specification or RabbitMQ has it.
#[derive(Parser)]
#[command(name = "conformance", version)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Puts several JSON reports side by side in one HTML page.
    Compare {
        /// JSON reports, in the order of the columns.
        #[arg(required = true)]
        reports: Vec<PathBuf>,
        /// Where the page goes.
        #[arg(long)]
        html: PathBuf,
        /// Where a picture of the summary goes.
        #[arg(long)]
        svg: Option<PathBuf>,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The broker.
    #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672/%2F")]
    url: String,
    /// Its management API, such as http://127.0.0.1:15672; without it, cases that need it are
    /// skipped.
    #[arg(long)]
    http: Option<String>,
    /// Name of the broker in reports, such as "LavinMQ 2.9"; without it, the name it gives itself.
    #[arg(long)]
    name: Option<String>,
    /// Only the case of this id; else those whose id holds this, or is it where it has a `*`.
    /// Repeat for more.
    #[arg(long)]
    only: Vec<String>,
    /// Expected behaviour: spec, rabbitmq-3.13, rabbitmq-4.2 or rabbitmq-4.3.
    #[arg(long, default_value = "rabbitmq-4.3")]
    profile: Profile,
    /// List of cases that this broker is known to fail.
    #[arg(long)]
    known: Option<PathBuf>,
    /// Cases at once.
    #[arg(long, default_value_t = 32)]
    jobs: usize,
    /// Shell command that restarts the broker and keeps its data; without it, cases that need it
    /// are skipped.
    #[arg(long)]
    restart_cmd: Option<String>,
    /// A report to write: `junit`, `json` or `html`, and where; repeat for more.
    #[arg(long, num_args = 2, value_names = ["KIND", "FILE"])]
    report: Vec<String>,
    /// A wrong reply text fails a case; else it is only told.
    #[arg(long)]
    strict_texts: bool,
    /// Plays a fault of FAULTS.md between the suite and the broker, to see who catches it.
    #[arg(long, value_name = "NAME")]
    fault: Option<String>,
    /// Takes the cases of a directory instead of those in the program.
    #[arg(long)]
    cases: Option<PathBuf>,
    /// Prints the conversation of every case, not only of those that fail.
    #[arg(long)]
    show: bool,
    /// Lists the cases and runs none.
    #[arg(long)]
    list: bool,
    /// Judges nothing and prints each case with what was heard after its steps, for who writes
    /// cases.
    #[arg(long)]
    draft: bool,
}

/// Runs the program and returns its exit code: 0 if all is well, 1 if a case fails, 2 if it could
/// not be run.
pub fn main() -> i32 {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Some(Command::Compare { reports, html, svg }) => compare(reports, html, svg.as_deref()),
        None => run(&cli.run),
    };
    outcome.unwrap_or_else(|why| {
        say(&format!("conformance: {why}"));
        2
    })
}

/// A line on standard output; a reader who left is no reason to stop.
fn say(line: &str) {
    let _written = writeln!(std::io::stdout().lock(), "{line}");
}

fn compare(reports: &[PathBuf], html: &Path, svg: Option<&Path>) -> Result<i32, String> {
    let reports = reports.iter().map(|path| Report::read(path)).collect::<Result<Vec<_>, _>>()?;
    write(html, &html::page(&reports))?;
    if let Some(svg) = svg {
        write(svg, &svg::picture(&reports))?;
    }
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Puts a proxy that plays a fault in the broker's place.
fn play_fault(name: &str, target: &mut Target) -> Result<Proxy, String> {
    let fault = faults::all().find(|fault| fault.name == name);
    let fault = fault.ok_or_else(|| format!("no fault `{name}`: FAULTS.md lists them"))?;
    let proxy = Proxy::start(target.address, Some(fault)).map_err(|error| format!("no proxy: {error}"))?;
    target.address = proxy.address();
    Ok(proxy)
}

fn run(args: &RunArgs) -> Result<i32, String> {
    let mut cases = match &args.cases {
        Some(directory) => suite::cases_of(directory)?,
        None => suite::cases()?,
    };
    let known = args.known.as_deref().map(Known::read).transpose()?.unwrap_or_default();
    let ids: Vec<&str> = cases.iter().map(|case| case.id.as_str()).collect();
    if let (Some(id), None) = (known.idle(&ids).first(), &args.cases) {
        return Err(format!("the list of known failures names {id}, and no case is called so"));
    }
    if !args.only.is_empty() {
        keep(&mut cases, &args.only);
    }
    if args.list {
        cases.iter().for_each(|case| say(&format!("{}  {}  [{}]", case.id, case.claim, case.source)));
        return Ok(0);
    }
    let mut target = Target::new(&args.url, args.http.as_deref(), args.restart_cmd.as_deref())?;
    if args.draft {
        return print_drafts(&cases, target, args.profile);
    }
    for pair in args.report.chunks(2) {
        if !matches!(pair.first().map(String::as_str), Some("junit" | "json" | "html")) {
            return Err(format!("no report `{}`: junit, json or html", pair.join(" ")));
        }
    }
    if cases.is_empty() {
        return Err(format!("no case is called {}", args.only.join(" or ")));
    }
    let mut files = Vec::new();
    for pair in args.report.chunks(2) {
        // Better told now than after the run.
        if let [kind, path] = pair {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|error| format!("{path}: {error}"))?;
            files.push((kind.as_str(), Path::new(path)));
        }
    }
    let introduction = target.introduction()?;
    target.check_http()?;
    let name = args.name.clone().unwrap_or_else(|| format!("{} {}", introduction.product, introduction.version));
    target.login().map_err(|why| format!("cannot log in as {}: {why}", target.account.user))?;
    let _proxy = args.fault.as_deref().map(|name| play_fault(name, &mut target)).transpose()?;
    say(&format!("{} cases against {name} ({})", cases.len(), args.url));
    let (start, total) = (Instant::now(), cases.len());
    let run = Run {
        target: Arc::new(target),
        profile: args.profile,
        jobs: args.jobs,
        strict_texts: args.strict_texts,
        known,
        gives_up: args.fault.is_none(),
    };
    let mut progress = Progress { total, done: 0, bad: 0, live: std::io::stdout().is_terminal() };
    let outcomes = run.all(cases, |outcome| progress.tell(outcome, args));
    progress.end();
    let report = Report::new(&name, &introduction, args.profile, &outcomes);
    let code = summary(&outcomes, start.elapsed().as_secs_f64());
    for (kind, path) in files {
        let text = match kind {
            "junit" => junit::xml(&report),
            "html" => html::page(std::slice::from_ref(&report)),
            _ => report.json()?,
        };
        write(path, &text)?;
    }
    Ok(code)
}

/// Leaves the cases that patterns mean: the case of exactly that id if there is one, else all that
/// fit.
fn keep(cases: &mut Vec<Case>, patterns: &[String]) {
    let (ids, patterns): (Vec<&String>, Vec<&String>) =
        patterns.iter().partition(|pattern| cases.iter().any(|case| case.id == **pattern));
    cases.retain(|case| ids.contains(&&case.id) || patterns.iter().any(|pattern| case.is_meant(pattern)));
}

/// Progress printed while cases run.
struct Progress {
    total: usize,
    done: usize,
    bad: usize,
    live: bool,
}

impl Progress {
    fn tell(&mut self, outcome: &Outcome, args: &RunArgs) {
        self.done += 1;
        if outcome.untried {
            // The summary says so once.
            self.bad += usize::from(outcome.is_bad());
        } else if outcome.is_bad() {
            self.bad += 1;
            self.clear();
            say(&failure(outcome, args));
        } else if args.show {
            self.clear();
            let verdict = outcome.verdict.name().to_uppercase();
            say(&format!("\n{verdict}  {}\n  {} [{}]", outcome.case.id, outcome.case.claim, outcome.case.source));
            outcome.talk.iter().for_each(|line| say(&format!("  {line}")));
            outcome.reason.lines().for_each(|line| say(&format!("  {line}")));
        }
        if self.live {
            let mut out = std::io::stdout().lock();
            let _written = write!(out, "\r{} of {}, {} bad  ", self.done, self.total, self.bad);
            let _flushed = out.flush();
        } else if self.done.is_multiple_of(100) {
            say(&format!("{} of {}, {} bad", self.done, self.total, self.bad));
        }
    }

    fn clear(&self) {
        if self.live {
            let _written = write!(std::io::stdout().lock(), "\r{:40}\r", "");
        }
    }

    fn end(&self) {
        self.clear();
    }
}

/// All that is known of a case that fails the run.
fn failure(outcome: &Outcome, args: &RunArgs) -> String {
    let case = &outcome.case;
    let mut lines = vec![String::new()];
    match &outcome.known {
        Some(known) => {
            lines.push(format!("PASSES, BUT IS LISTED  {}", case.id));
            lines.push(format!("  {}", case.claim));
            lines.push(format!("  the list says: {known}"));
        }
        None => {
            lines.push(format!("FAIL  {}", case.id));
            lines.push(format!("  {} [{}]", case.claim, case.source));
            lines.extend(outcome.talk.iter().map(|line| format!("  {line}")));
            lines.extend(outcome.reason.lines().map(|line| format!("  {line}")));
        }
    }
    lines.push(format!("  alone: {}", alone(&case.id, args)));
    lines.join("\n")
}

/// The command that runs one case alone, to be given to a shell.
fn alone(id: &str, args: &RunArgs) -> String {
    let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let options = [
        ("--url", Some(args.url.clone())),
        ("--http", args.http.clone()),
        ("--restart-cmd", args.restart_cmd.clone()),
        ("--profile", Some(args.profile.to_string())),
        ("--fault", args.fault.clone()),
        ("--cases", text(&args.cases)),
        ("--only", Some(id.to_owned())),
    ];
    let mut command = "cargo run --release -p conformance --".to_owned();
    for (option, value) in options {
        if let Some(value) = value {
            command += &format!(" {option} {}", quoted(&value));
        }
    }
    command + if args.strict_texts { " --strict-texts" } else { "" }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A table by area and the exit code.
fn summary(outcomes: &[Outcome], seconds: f64) -> i32 {
    let mut areas: BTreeMap<&str, [usize; 5]> = BTreeMap::new();
    for outcome in outcomes {
        let counts = areas.entry(&outcome.case.area).or_default();
        let column = match (outcome.verdict, outcome.known.is_some()) {
            (Verdict::Pass, _) => 0,
            (Verdict::Fail, true) => 1,
            (Verdict::Fail, false) => 2,
            (Verdict::Skipped, _) => 3,
        };
        counts[column] += 1;
        counts[4] += usize::from(!outcome.texts.is_empty());
    }
    let width = areas.keys().map(|area| area.chars().count()).max().unwrap_or(0);
    say(&format!("{:<width$} {:>5} {:>6} {:>5} {:>8} {:>6}", "", "pass", "known", "fail", "skipped", "texts"));
    let mut all = [0; 5];
    for (area, counts) in &areas {
        all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        say(&row(area, width, counts));
    }
    say(&row("all", width, &all));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Skipped) {
        *reasons.entry(&outcome.reason).or_default() += 1;
    }
    reasons.iter().for_each(|(reason, count)| say(&format!("skipped {count}: {reason}")));
    let bad: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.is_bad()).collect();
    let (untried, tried): (Vec<&Outcome>, Vec<&Outcome>) = bad.iter().partition(|outcome| outcome.untried);
    tried.iter().for_each(|outcome| {
        let what = if outcome.verdict == Verdict::Pass { "passes, but is listed" } else { "fails" };
        say(&format!("{}: {what}", outcome.case.id));
    });
    if let Some(first) = untried.first() {
        say(&format!("{} cases {}", untried.len(), first.reason));
    }
    say(&format!("{} cases in {seconds:.1} s, {} bad", outcomes.len(), bad.len()));
    i32::from(!bad.is_empty())
}

fn row(area: &str, width: usize, [pass, known, fail, skipped, texts]: &[usize; 5]) -> String {
    let texts = if *texts == 0 { String::new() } else { format!("{texts} off") };
    format!("{area:<width$} {pass:>5} {known:>6} {fail:>5} {skipped:>8} {texts:>6}")
}

fn print_drafts(cases: &[Case], target: Target, profile: Profile) -> Result<i32, String> {
    let target = Arc::new(target);
    for case in cases {
        let restarts = Arc::new(Restarts::new(target.clone()));
        restarts.announce(1);
        let stage = Stage { target: target.clone(), profile, restarts };
        let draft = draft(case, &stage);
        let id = case.id.split_once('.').map_or(case.id.as_str(), |(_, id)| id);
        say(&format!("case {id}: {}", case.claim));
        for (step, heard) in &draft.steps {
            say(&format!("  {step}"));
            heard.iter().for_each(|line| say(&format!("  = {line}")));
        }
        if let Some(why) = draft.error {
            say(&format!("  # stopped: {why}"));
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_id_means_that_case_alone() {
        let text = "area A\nsource s\ncase a: It.\n  ok 1 tx.select\ncase a-b: It.\n  ok 1 tx.select\n";
        let kept = |patterns: &[&str]| {
            let mut cases = crate::case::parse("x", text).unwrap();
            keep(&mut cases, &patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>());
            cases.into_iter().map(|case| case.id).collect::<Vec<_>>()
        };
        assert_eq!(kept(&["x.a"]), ["x.a"]);
        assert_eq!(kept(&["x."]), ["x.a", "x.a-b"]);
        assert_eq!(kept(&["x.a", "*-b"]), ["x.a", "x.a-b"]);
    }

    #[test]
    fn the_command_for_one_case_has_what_the_run_had() {
        let args = ["conformance", "--url", "amqp://h/a&b", "--restart-cmd", "echo 'x'", "--strict-texts"];
        let command = alone("queue.a", &Cli::parse_from(args).run);
        let end = "--url 'amqp://h/a&b' --restart-cmd 'echo '\\''x'\\''' --profile rabbitmq-4.3 --only queue.a --strict-texts";
        assert!(command.ends_with(end), "{command}");
    }
}

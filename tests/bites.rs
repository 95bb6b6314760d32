//! Mutation test of the conformance suite: each deliberate fault that a proxy plays between it and
//! a broker of this test program is caught by the cases that `conformance/FAULTS.md` names.
//!
//! `LEVERET_RECORD_FAULTS=all cargo test --test bites` plays every case with every fault and writes
//! the table anew, which takes some minutes; with names of faults and commas between them instead
//! of `all`, their rows alone. A new fault needs that once.

mod in_process;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use conformance::case::Case;
use conformance::faults;
use conformance::faults::fault::Fault;
use conformance::faults::proxy::Proxy;
use conformance::faults::table::{Row, parse, render};
use conformance::known::Known;
use conformance::profile::Profile;
use conformance::runner::{Outcome, Run, Verdict};
use conformance::suite;
use conformance::target::Target;
use in_process::InProcess;

/// Faults that are played at once. Those who look wait for what does not come, most of the time.
const AT_ONCE: usize = 16;
/// Cases at once where all are played with one fault.
const JOBS: usize = 32;
/// How often a case must catch a fault to be named.
const AGAIN: usize = 8;
/// So few cases that all of them are played again.
const FEW: usize = 12;
/// Cases that the table names for each fault.
const NAMED: usize = 3;

fn place(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conformance").join(name)
}

/// The cases that the broker does not fail already.
fn good_cases() -> Vec<Case> {
    let known = Known::read(&place("known/leveret.toml")).unwrap();
    suite::cases().unwrap().into_iter().filter(|case| known.reason(&case.id).is_none()).collect()
}

/// Each time on a broker of its own: what one fault leaves behind must not fail the cases of
/// another.
fn played(cases: Vec<Case>, fault: Option<&'static Fault>, jobs: usize) -> Vec<Outcome> {
    let broker = InProcess::start();
    let proxy = Proxy::start(broker.address(), fault).unwrap();
    let run = Run {
        target: Arc::new(Target::new(&format!("amqp://{}", proxy.address()), None, None).unwrap()),
        profile: Profile::Rabbit43,
        jobs,
        strict_texts: fault.is_none_or(|fault| fault.is_soft),
        known: Known::default(),
        gives_up: false,
    };
    run.all(cases, |_| {})
}

fn failed(outcomes: &[Outcome]) -> Vec<&str> {
    let failed = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Fail);
    failed.map(|outcome| outcome.case.id.as_str()).collect()
}

/// Plays each fault, several at a time, and returns the results in their order.
fn each<T: Send>(faults: Vec<&'static Fault>, at_once: usize, play: impl Fn(&'static Fault) -> T + Sync) -> Vec<T> {
    let queue = Mutex::new(faults.into_iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some((i, fault)) = next else { break };
                    let outcome = play(fault);
                    done.lock().unwrap().insert(i, outcome);
                }
            });
        }
    });
    done.into_inner().unwrap().into_values().collect()
}

#[test]
fn the_proxy_alone_changes_nothing() {
    let outcomes = played(good_cases(), None, JOBS / 2);
    let bad = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Fail);
    let bad: Vec<String> = bad.map(|outcome| format!("{}: {}", outcome.case.id, outcome.reason)).collect();
    assert!(bad.is_empty(), "{} of {} cases:\n{}", bad.len(), outcomes.len(), bad.join("\n"));
}

#[test]
fn every_fault_is_caught() {
    if let Ok(which) = std::env::var("LEVERET_RECORD_FAULTS") {
        return record(&which);
    }
    let rows = parse(&std::fs::read_to_string(place("FAULTS.md")).unwrap());
    let faults: Vec<_> = faults::all().map(|fault| (fault.name, fault.does)).collect();
    let listed: Vec<_> = rows.iter().map(|row| (row.fault.as_str(), row.does.as_str())).collect();
    assert_eq!(
        listed, faults,
        "FAULTS.md lists other faults than there are: record it anew (the head of this file says how)"
    );
    let cases: BTreeMap<String, Case> = good_cases().into_iter().map(|case| (case.id.clone(), case)).collect();
    let missed = each(faults::all().collect(), AT_ONCE, |fault| {
        let row = rows.iter().find(|row| row.fault == fault.name).unwrap();
        let named: Vec<Case> = row.cases.iter().filter_map(|id| cases.get(id)).cloned().collect();
        let gone = row.cases.iter().filter(|id| !cases.contains_key(*id)).cloned();
        let outcomes = played(named, Some(fault), NAMED);
        let passed = outcomes.into_iter().filter(|outcome| outcome.verdict != Verdict::Fail);
        let missed: Vec<String> = passed.map(|outcome| outcome.case.id).chain(gone).collect();
        match (row.cases.is_empty(), missed.is_empty()) {
            (true, _) => Some(format!("{}: no case catches it", fault.name)),
            (_, false) => Some(format!("{}: not caught by {}", fault.name, missed.join(", "))),
            _ => None,
        }
    });
    let missed: Vec<String> = missed.into_iter().flatten().collect();
    assert!(missed.is_empty(), "{} faults:\n{}", missed.len(), missed.join("\n"));
}

/// Plays every case with each fault and writes the table.
fn record(which: &str) {
    let all = good_cases();
    let sound: BTreeSet<String> = {
        let outcomes = played(all.clone(), None, JOBS);
        let passed = outcomes.into_iter().filter(|outcome| outcome.verdict == Verdict::Pass);
        passed.map(|outcome| outcome.case.id).collect()
    };
    let cases: Vec<Case> = all.into_iter().filter(|case| sound.contains(&case.id)).collect();
    let old = parse(&std::fs::read_to_string(place("FAULTS.md")).unwrap_or_default());
    let rows = each(faults::all().collect(), AT_ONCE / 3, |fault| {
        let asked = which == "all" || which.split(',').any(|name| name == fault.name);
        let known = old.iter().find(|row| row.fault == fault.name);
        match known {
            Some(row) if !asked => Row { does: fault.does.to_owned(), ..row.clone() },
            _ => caught(fault, &cases),
        }
    });
    std::fs::write(place("FAULTS.md"), render(&rows)).unwrap();
    let holes: Vec<&str> = rows.iter().filter(|row| row.cases.is_empty()).map(|row| row.fault.as_str()).collect();
    assert!(holes.is_empty(), "{} faults that no case catches:\n{}", holes.len(), holes.join("\n"));
}

/// Returns the cases that catch a fault. Whoever is named always does; where there are few, a case
/// that does so only once is not named.
fn caught(fault: &'static Fault, cases: &[Case]) -> Row {
    let outcomes = played(cases.to_vec(), Some(fault), JOBS);
    let failed: BTreeSet<&str> = failed(&outcomes).into_iter().collect();
    let (mut named, mut count) = (Vec::new(), failed.len());
    for case in cases.iter().filter(|case| failed.contains(case.id.as_str())) {
        if named.len() == NAMED && failed.len() > FEW {
            break;
        }
        let again = played(vec![case.clone(); AGAIN], Some(fault), AGAIN);
        match again.iter().filter(|outcome| outcome.verdict == Verdict::Fail).count() {
            AGAIN => named.push(case.id.clone()),
            0 => count -= 1,
            _ => {}
        }
    }
    named.truncate(NAMED);
    eprintln!("{}: {count} cases, {named:?}", fault.name);
    Row { fault: fault.name.to_owned(), does: fault.does.to_owned(), cases: named, count }
}

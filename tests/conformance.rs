//! The conformance suite against a broker of this test program: every case that is not known to
//! fail passes, and none that is. The suite itself, for
//! any broker: `conformance/`.

mod in_process;

use std::path::Path;
use std::sync::Arc;

use conformance::known::Known;
use conformance::profile::Profile;
use conformance::runner::{Outcome, Run};
use conformance::suite;
use conformance::target::Target;
use in_process::InProcess;

/// Cases at once.
const JOBS: usize = 32;

#[test]
fn as_rabbitmq_has_it() {
    hold(Profile::Rabbit43, "leveret.toml");
}

#[test]
fn as_the_specification_has_it() {
    hold(Profile::Spec, "leveret-spec.toml");
}

fn hold(profile: Profile, list: &str) {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/known").join(list);
    let broker = InProcess::start();
    let run = Run {
        target: Arc::new(Target::new(&format!("amqp://{}", broker.address()), None, None).unwrap()),
        profile,
        jobs: JOBS,
        // The specification has no texts.
        strict_texts: profile != Profile::Spec,
        gives_up: false,
        known: Known::read(&list).unwrap(),
    };
    let cases = suite::cases().unwrap();
    let ids: Vec<&str> = cases.iter().map(|case| case.id.as_str()).collect();
    assert_eq!(run.known.idle(&ids), [""; 0], "entries that mean no case");
    let outcomes = run.all(cases, |_| {});
    let bad: Vec<String> = outcomes.iter().filter(|outcome| outcome.is_bad()).map(told).collect();
    assert!(bad.is_empty(), "{} of {} cases:\n{}", bad.len(), outcomes.len(), bad.join("\n"));
}

fn told(outcome: &Outcome) -> String {
    let talk = outcome.talk.join("\n    ");
    let known = outcome.known.as_deref().map(|why| format!(" passes, but is listed: {why}")).unwrap_or_default();
    format!("{}{known}\n  {}\n    {talk}\n  {}", outcome.case.id, outcome.case.claim, outcome.reason)
}

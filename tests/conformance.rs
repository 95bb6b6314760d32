//! The conformance suite against a broker of this test program: every case that is not known to fail passes, and none that is.
//! It knows nothing of how the broker is made. The suite itself, for any broker: `conformance/`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use conformance::known::Known;
use conformance::profile::Profile;
use conformance::runner::{Outcome, Run};
use conformance::suite;
use conformance::target::Target;
use leveret::store::simulated::SimulatedDisk;
use leveret::{Broker, Config};

/// Cases at once.
const JOBS: usize = 16;

fn start_leveret() -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let bind = vec!["127.0.0.1:0".parse().expect("an address")];
            // What is persistent goes the whole way, to files that need no directory.
            let disk = Arc::new(SimulatedDisk::new(1, 1 << 40));
            let broker = Broker::start_on(Config { bind, ..Config::default() }, disk).await.expect("a broker");
            told.send(broker.address()).expect("the address is waited for");
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("the broker starts")
}

#[test]
fn the_suite() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/known/leveret.toml");
    let run = Run {
        target: Arc::new(Target::new(&format!("amqp://{}", start_leveret()), None, None).unwrap()),
        profile: Profile::Rabbit43,
        jobs: JOBS,
        strict_texts: true,
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

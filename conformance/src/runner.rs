//! Runs cases side by side and gathers their verdicts. It knows neither files nor terminals.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::capabilities::Capabilities;
use crate::case::Case;
use crate::known::Known;
use crate::play::state::Stage;
use crate::play::{Ending, Failure, play};
use crate::profile::Profile;
use crate::restart::Restarts;
use crate::target::Target;

/// Result of one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As claimed.
    Pass,
    /// Not as claimed.
    Fail,
    /// Not tried, for the reason given.
    Skipped,
}

impl Verdict {
    /// As reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Skipped => "skipped",
        }
    }
}

/// A case, its verdict and why.
#[derive(Debug)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// The result.
    pub verdict: Verdict,
    /// Why it failed or was skipped, or which texts differ; empty if all was well.
    pub reason: String,
    /// Reply texts that were not as expected, where the rest was.
    pub texts: Vec<String>,
    /// The list's reason, if this case is known to fail.
    pub known: Option<String>,
    /// The conversation, frame by frame, as far as it went.
    pub talk: Vec<String>,
    /// How long it took, in milliseconds.
    pub ms: u128,
    /// True if it was left out because the broker was gone by then; it counts as failed.
    pub untried: bool,
}

impl Outcome {
    /// Returns true if this case fails the run: it fails and is not in the list of known failures,
    /// or passes and is.
    pub fn is_bad(&self) -> bool {
        match self.verdict {
            Verdict::Fail => self.known.is_none(),
            Verdict::Pass => self.known.is_some(),
            Verdict::Skipped => false,
        }
    }
}

/// How cases are run.
pub struct Run {
    /// The broker.
    pub target: Arc<Target>,
    /// Expected behaviour.
    pub profile: Profile,
    /// Cases at once; at least 1.
    pub jobs: usize,
    /// True if a wrong reply text fails a case.
    pub strict_texts: bool,
    /// The cases that this broker is known to fail.
    pub known: Known,
    /// True to end when the broker is gone, instead of trying every case that is left.
    pub gives_up: bool,
}

/// Checks after each failed case that the broker is still there.
struct Watch<'a> {
    target: &'a Target,
    /// One looks at a time.
    looking: Mutex<()>,
    gone: OnceLock<String>,
}

impl Watch<'_> {
    fn look(&self) {
        let _alone = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gone.get().is_some() || self.target.introduction().is_ok() {
            return;
        }
        // It may have been in the middle of something.
        thread::sleep(Duration::from_secs(1));
        if let Err(why) = self.target.introduction() {
            let _first = self.gone.set(why);
        }
    }
}

impl Run {
    /// Runs all and returns their outcomes in the order of the cases; each is told as soon as it is
    /// there.
    pub fn all(&self, cases: Vec<Case>, mut tell: impl FnMut(&Outcome)) -> Vec<Outcome> {
        let (alone, others): (Vec<_>, Vec<_>) = cases.into_iter().enumerate().partition(|(_, case)| case.alone);
        let restarts = |case: &Case| case.needs.iter().any(|need| need == "restart");
        let (last, first): (Vec<_>, Vec<_>) = others.into_iter().partition(|(_, case)| restarts(case));
        let capabilities = Capabilities::default();
        let watch = Watch { target: &self.target, looking: Mutex::new(()), gone: OnceLock::new() };
        let mut outcomes = Vec::new();
        // Those that restart wait for each other, so each needs a thread of its own.
        let all_at_once = last.len().max(1);
        for (group, jobs) in [(first, self.jobs), (alone, 1), (last, all_at_once)] {
            self.group(group, jobs, (&capabilities, &watch), &mut |i, outcome: Outcome| {
                tell(&outcome);
                outcomes.push((i, outcome));
            });
        }
        outcomes.sort_by_key(|(i, _)| *i);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn group(
        &self,
        cases: Vec<(usize, Case)>,
        jobs: usize,
        (capabilities, watch): (&Capabilities, &Watch<'_>),
        done: &mut impl FnMut(usize, Outcome),
    ) {
        let restarts = Arc::new(Restarts::new(self.target.clone()));
        restarts.announce(cases.len());
        let stage = Stage { target: self.target.clone(), profile: self.profile, restarts };
        let jobs = jobs.min(cases.len()).max(1);
        let queue = Mutex::new(VecDeque::from(cases));
        thread::scope(|scope| {
            let (sender, outcomes) = mpsc::channel();
            for _ in 0..jobs {
                let (sender, stage, queue) = (sender.clone(), &stage, &queue);
                scope.spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some((i, case)) = next else { break };
                        let outcome = match watch.gone.get() {
                            Some(why) => self.untried(case, why),
                            None => self.one(case, stage, capabilities),
                        };
                        if self.gives_up && outcome.verdict == Verdict::Fail && !outcome.untried {
                            watch.look();
                        }
                        stage.restarts.leave();
                        if sender.send((i, outcome)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            outcomes.into_iter().for_each(|(i, outcome)| done(i, outcome));
        });
    }

    /// A case that the broker is not there for.
    fn untried(&self, case: Case, why: &str) -> Outcome {
        let known = self.known.reason(&case.id).map(str::to_owned);
        let reason = format!("not tried, the broker is gone: {why}");
        let (verdict, texts, talk) = (Verdict::Fail, Vec::new(), Vec::new());
        Outcome { case, verdict, reason, texts, known, talk, ms: 0, untried: true }
    }

    fn one(&self, case: Case, stage: &Stage, capabilities: &Capabilities) -> Outcome {
        let start = Instant::now();
        let known = self.known.reason(&case.id).map(str::to_owned);
        let (mut texts, mut talk) = (Vec::new(), Vec::new());
        let lacking = match case.belongs_to(self.profile) {
            true => capabilities.lacking(&self.target, &case.needs),
            false => Ok(Some(format!("not claimed by the profile {}", self.profile))),
        };
        let (verdict, reason) = match lacking {
            Ok(Some(lack)) => (Verdict::Skipped, lack),
            Err(why) => (Verdict::Fail, why),
            Ok(None) => match play(&case, stage) {
                Ending::Passed { texts: off, talk: all } => {
                    (texts, talk) = (off, all);
                    let verdict = if self.strict_texts && !texts.is_empty() { Verdict::Fail } else { Verdict::Pass };
                    let reason =
                        if texts.is_empty() { String::new() } else { format!("reply text: {}", texts.join("; ")) };
                    (verdict, reason)
                }
                Ending::Failed(Failure { line, step, why, talk: all }) => {
                    talk = all;
                    (Verdict::Fail, format!("line {line}: {step}: {why}"))
                }
            },
        };
        Outcome { case, verdict, reason, texts, known, talk, ms: start.elapsed().as_millis(), untried: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One case after the other against an address.
    fn outcomes(url: &str, gives_up: bool) -> Vec<Outcome> {
        let text = "area A\nsource s\ncase a: It.\n  ok 1 tx.select\ncase b: It.\n  needs quorum\n  ok 1 tx.select\n\
            case c: It.\n  needs restart\n  ok 1 tx.select\n";
        let target = Arc::new(Target::new(url, None, None).unwrap());
        let known = Known::default();
        let run = Run { target, profile: Profile::Spec, jobs: 1, strict_texts: false, known, gives_up };
        run.all(crate::case::parse("x", text).unwrap(), |_| {})
    }

    #[test]
    fn a_broker_that_is_gone_ends_the_run() {
        // A port that nobody listens on any more.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        drop(listener);
        let short = outcomes(&url, true);
        assert_eq!(
            short.iter().map(|o| (o.verdict, o.untried)).collect::<Vec<_>>(),
            [(Verdict::Fail, false), (Verdict::Fail, true), (Verdict::Fail, true)]
        );
        assert!(short.iter().all(Outcome::is_bad));
        // Nobody who could be asked whether it has quorum queues: no reason to skip.
        let whole = outcomes(&url, false);
        let verdicts: Vec<_> = whole.iter().map(|o| (o.verdict, o.untried)).collect();
        assert_eq!(verdicts, [(Verdict::Fail, false), (Verdict::Fail, false), (Verdict::Skipped, false)]);
    }
}

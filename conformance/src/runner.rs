//! Runs cases side by side and gathers their verdicts. It knows neither files nor terminals.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use crate::capabilities::Capabilities;
use crate::case::Case;
use crate::known::Known;
use crate::play::{Ending, Failure, Stage, play};
use crate::profile::Profile;
use crate::restart::Restarts;
use crate::target::Target;

/// What came of one case.
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
    /// What was claimed.
    pub case: Case,
    /// What came of it.
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
}

impl Outcome {
    /// Whether this case fails the run: it fails and is not in the list, or passes and is.
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
    /// Whose behaviour is asked for.
    pub profile: Profile,
    /// Cases at once; at least 1.
    pub jobs: usize,
    /// Whether a wrong reply text fails a case.
    pub strict_texts: bool,
    /// The cases that this broker is known to fail.
    pub known: Known,
}

impl Run {
    /// Runs all and returns their outcomes in the order of the cases; each is told as soon as it is there.
    pub fn all(&self, cases: Vec<Case>, mut tell: impl FnMut(&Outcome)) -> Vec<Outcome> {
        let (alone, others): (Vec<_>, Vec<_>) = cases.into_iter().enumerate().partition(|(_, case)| case.alone);
        let restarts = |case: &Case| case.needs.iter().any(|need| need == "restart");
        let (last, first): (Vec<_>, Vec<_>) = others.into_iter().partition(|(_, case)| restarts(case));
        let capabilities = Capabilities::default();
        let mut outcomes = Vec::new();
        // Those that restart wait for each other, so each needs a thread of its own.
        let all_at_once = last.len().max(1);
        for (group, jobs) in [(first, self.jobs), (alone, 1), (last, all_at_once)] {
            self.group(group, jobs.max(1), &capabilities, &mut |i, outcome: Outcome| {
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
        capabilities: &Capabilities,
        done: &mut impl FnMut(usize, Outcome),
    ) {
        let restarts = Arc::new(Restarts::new(self.target.clone()));
        restarts.announce(cases.len());
        let stage = Stage { target: self.target.clone(), profile: self.profile, restarts };
        let queue = Mutex::new(VecDeque::from(cases));
        thread::scope(|scope| {
            let (sender, outcomes) = mpsc::channel();
            for _ in 0..jobs {
                let (sender, stage, queue) = (sender.clone(), &stage, &queue);
                scope.spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some((i, case)) = next else { break };
                        let outcome = self.one(case, stage, capabilities);
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

    fn one(&self, case: Case, stage: &Stage, capabilities: &Capabilities) -> Outcome {
        let start = Instant::now();
        let known = self.known.reason(&case.id).map(str::to_owned);
        let (mut texts, mut talk) = (Vec::new(), Vec::new());
        let (verdict, reason) = if !case.belongs_to(self.profile) {
            (Verdict::Skipped, format!("not claimed by the profile {}", self.profile))
        } else if let Err(why) = capabilities.offer(&self.target, &case.needs) {
            (Verdict::Skipped, why)
        } else {
            let ending = play(&case, stage);
            match ending {
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
            }
        };
        Outcome { case, verdict, reason, texts, known, talk, ms: start.elapsed().as_millis() }
    }
}

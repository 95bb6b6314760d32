//! One restart for all cases that wait for one, so that forty of them cost no forty restarts. It
//! knows no case.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::target::Target;

/// Where cases meet before a restart.
pub struct Restarts {
    target: Arc<Target>,
    meeting: Mutex<Meeting>,
    over: Condvar,
}

struct Meeting {
    /// Cases that may still ask for a restart.
    running: usize,
    waiting: usize,
    /// Restarts done so far.
    round: usize,
    outcome: Result<(), String>,
}

impl Restarts {
    /// Nobody is there yet.
    pub fn new(target: Arc<Target>) -> Restarts {
        let meeting = Meeting { running: 0, waiting: 0, round: 0, outcome: Ok(()) };
        Restarts { target, meeting: Mutex::new(meeting), over: Condvar::new() }
    }

    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many cases will run that may ask for a restart.
    pub fn announce(&self, cases: usize) {
        self.meeting().running += cases;
    }

    /// One of them has ended.
    pub fn leave(&self) {
        let mut meeting = self.meeting();
        meeting.running = meeting.running.saturating_sub(1);
        self.go(&mut meeting);
    }

    /// Waits until every other case that may ask for a restart has asked or ended, and until the
    /// broker is back.
    pub fn restart(&self) -> Result<(), String> {
        let mut meeting = self.meeting();
        let round = meeting.round;
        meeting.waiting += 1;
        self.go(&mut meeting);
        while meeting.round == round {
            meeting = self.over.wait(meeting).unwrap_or_else(PoisonError::into_inner);
        }
        meeting.outcome.clone()
    }

    fn go(&self, meeting: &mut Meeting) {
        if meeting.waiting == 0 || meeting.waiting < meeting.running {
            return;
        }
        meeting.outcome = self.target.restart();
        meeting.waiting = 0;
        meeting.round += 1;
        self.over.notify_all();
    }
}

//! Long work, run where it keeps no worker thread of an async runtime from its tasks. Names no
//! runtime: the embedding layer sets a [`Runner`].

use std::sync::OnceLock;

/// A function that runs a closure once, outside the runtime's worker threads.
pub type Runner = fn(&mut dyn FnMut());

/// A function that starts a closure outside the runtime's worker threads and does not wait for it.
pub type Starter = fn(Box<dyn FnOnce() + Send>);

/// The way to run long work. Without a runner, work runs on the calling thread.
#[derive(Debug, Default)]
pub struct Offload {
    runner: OnceLock<(Runner, Starter)>,
}

impl Offload {
    /// Sets the runner of work that is waited for, and that of work that is not; later calls
    /// change nothing.
    pub fn set(&self, runner: Runner, starter: Starter) {
        self.runner.get_or_init(|| (runner, starter));
    }

    /// Runs `work` to its end, through the runner if there is one.
    pub fn run(&self, mut work: impl FnMut()) {
        match self.runner.get() {
            Some((runner, _)) => runner(&mut work),
            None => work(),
        }
    }

    /// Starts `work` through the starter if there is one, without waiting for it. Work that has
    /// not begun when the runtime ends is dropped.
    pub fn later(&self, work: Box<dyn FnOnce() + Send>) {
        match self.runner.get() {
            Some((_, starter)) => starter(work),
            None => work(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn work_runs_once_with_and_without_a_runner() {
        let (offload, mut count, later) = (Offload::default(), 0, Arc::new(AtomicUsize::new(0)));
        let work = || {
            let later = Arc::clone(&later);
            Box::new(move || _ = later.fetch_add(1, Ordering::Relaxed))
        };
        offload.run(|| count += 1);
        offload.later(work());
        offload.set(|work| work(), |work| work());
        offload.run(|| count += 1);
        offload.later(work());
        assert_eq!((count, later.load(Ordering::Relaxed)), (2, 2));
    }
}

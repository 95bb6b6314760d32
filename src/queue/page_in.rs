//! Queues that need bodies from the journal, and the task that reads them: a read may take long, so
//! no connection's task does it.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use tokio::sync::Notify;

/// A queue with messages whose bodies are in the journal only.
pub trait PageIn: fmt::Debug + Send + Sync {
    /// Reads the bodies that are needed first.
    fn page_in(self: Arc<Self>);
}

/// The queues that have requested page-ins.
#[derive(Debug, Default)]
pub struct PageInQueue {
    waiting: Mutex<VecDeque<Arc<dyn PageIn>>>,
    notify: Notify,
}

impl PageInQueue {
    /// Requests a page-in for a queue.
    pub fn request(&self, queue: Arc<dyn PageIn>) {
        self.waiting.lock().push_back(queue);
        self.notify.notify_one();
    }

    /// Waits for a request.
    pub async fn requested(&self) {
        self.notify.notified().await;
    }

    /// Pages in for all queues that have requested it, in turn, until there are no requests. Reads
    /// files, so it may take long.
    pub fn run(&self) {
        let _rest = NotifyOfRest(self);
        loop {
            let next = self.waiting.lock().pop_front();
            let Some(next) = next else { return };
            next.page_in();
        }
    }
}

/// A guard that notifies the page-in task of the remaining queues if a page-in panics.
struct NotifyOfRest<'a>(&'a PageInQueue);

impl Drop for NotifyOfRest<'_> {
    fn drop(&mut self) {
        if !self.0.waiting.lock().is_empty() {
            self.0.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Panics(bool);

    impl PageIn for Panics {
        fn page_in(self: Arc<Self>) {
            assert!(!self.0, "asked to");
        }
    }

    #[tokio::test]
    async fn a_page_in_that_panics_keeps_no_other_queue_waiting() {
        let queue = PageInQueue::default();
        for panics in [true, false] {
            queue.request(Arc::new(Panics(panics)));
        }
        queue.requested().await;
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| queue.run())).is_err());
        queue.requested().await;
        queue.run();
        assert!(queue.waiting.lock().is_empty());
    }
}

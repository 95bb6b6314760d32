//! Queues that want messages back from the journal, and whoever reads them: reading may take long, so it is nobody's side job. It
//! knows no journal and no thread.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use tokio::sync::Notify;

/// What has messages in the journal only.
pub trait Raise: fmt::Debug + Send + Sync {
    /// Reads the first of them back.
    fn raise(self: Arc<Self>);
}

/// Who waits for messages.
#[derive(Debug, Default)]
pub struct Pager {
    waiting: Mutex<VecDeque<Arc<dyn Raise>>>,
    bell: Notify,
}

impl Pager {
    /// Asks for messages.
    pub fn ask(&self, who: Arc<dyn Raise>) {
        self.waiting.lock().push_back(who);
        self.bell.notify_one();
    }

    /// Waits until somebody has asked.
    pub async fn is_asked(&self) {
        self.bell.notified().await;
    }

    /// Reads for all who have asked, in turns. It reads files, and returns when nobody asks any more.
    pub fn work(&self) {
        loop {
            let next = self.waiting.lock().pop_front();
            let Some(next) = next else { return };
            next.raise();
        }
    }
}

//! The task that reads messages back from the journal for queues that request it.

use crate::broker::node::Node;
use std::sync::Arc;

/// Runs page-ins for ever, whenever queues request them.
pub async fn run(node: Arc<Node>) {
    loop {
        node.context().page_ins().requested().await;
        let node = Arc::clone(&node);
        let work = tokio::task::spawn_blocking(move || node.context().page_ins().run());
        if let Err(error) = work.await {
            tracing::error!(%error, "reading messages back ended badly");
        }
    }
}

//! Comparison of what was published with what was received: losses, duplicates and disorder over
//! all queues.

use crate::consumer::Consumed;
use crate::layout::LoadLayout;
use crate::producer::Published;
use crate::report::grouped;
use crate::track::Track;
use std::collections::HashMap;

/// Differences between what was published and what was received, in messages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DeliveryAudit {
    /// Published, neither refused nor returned, and never delivered.
    pub lost: u64,
    /// Delivered again.
    pub duplicated: u64,
    /// Delivered behind one that was published later.
    pub disordered: u64,
    /// Delivered and never published by this run, or to that queue.
    pub foreign: u64,
    /// Deliveries with the redelivered flag: told, no fault of their own.
    pub redelivered: u64,
}

impl DeliveryAudit {
    /// Judges by the messages' stamps, queue by queue and producer by producer.
    pub fn by_stamps(layout: &LoadLayout, published: &[Published], consumed: Vec<Consumed>) -> DeliveryAudit {
        let mut verdict = DeliveryAudit::default();
        let mut tracks: HashMap<(usize, usize), Track> = HashMap::new();
        for consumed in consumed {
            verdict.foreign += consumed.foreign;
            verdict.redelivered += consumed.redelivered;
            for seen in consumed.seen {
                tracks.entry((seen.queue, seen.producer)).or_default().merge(seen.track);
            }
        }
        let channels = published.iter().flat_map(|published| published.messages.iter().zip(&published.excused));
        for (producer, (messages, excused)) in channels.enumerate() {
            for queue in 0..layout.queues.len() {
                let Some(share) = layout.share_of(producer, queue) else { continue };
                let track = tracks.remove(&(queue, producer)).unwrap_or_default();
                let due = share.share(*messages);
                let absent =
                    |sequence: &&u64| *sequence % share.turns == share.turn && !track.has(*sequence / share.turns);
                let excused = excused.iter().filter(absent).count() as u64;
                verdict.lost += track.missing(due).saturating_sub(excused);
                verdict.foreign += track.unexpected(due);
                verdict.duplicated += track.duplicated;
                verdict.disordered += track.disordered;
            }
        }
        verdict
    }

    /// Judges by numbers alone: so many should have come, so many of them may be missing, so many
    /// came.
    pub fn by_count(due: u64, excused: u64, came: u64) -> DeliveryAudit {
        DeliveryAudit {
            lost: due.saturating_sub(excused).saturating_sub(came),
            foreign: came.saturating_sub(due),
            ..DeliveryAudit::default()
        }
    }

    /// Returns a sentence for each kind of difference.
    pub fn faults(&self) -> Vec<String> {
        let kinds = [
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.disordered, "out of order"),
            (self.foreign, "that nobody published there"),
        ];
        let kinds = kinds.into_iter().filter(|(count, _)| *count > 0);
        kinds.map(|(count, what)| format!("{} messages {what}", grouped(count))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Seen;
    use crate::options::{ExchangeKind, LoadOptions};
    use std::time::Duration;

    fn options() -> LoadOptions {
        LoadOptions::new("amqp://".parse().unwrap())
    }

    fn published(messages: &[u64], excused: &[u64]) -> Published {
        let excused = messages.iter().enumerate().map(|(at, _)| if at == 0 { excused.to_vec() } else { Vec::new() });
        Published { messages: messages.to_vec(), excused: excused.collect(), unconfirmed: 0, held: Duration::ZERO }
    }

    fn consumed(seen: &[(usize, usize, &[u64])]) -> Consumed {
        let seen = seen.iter().map(|(queue, producer, numbers)| {
            let mut track = Track::default();
            numbers.iter().for_each(|number| track.see(*number));
            Seen { queue: *queue, producer: *producer, track }
        });
        Consumed { seen: seen.collect(), ..Consumed::default() }
    }

    #[test]
    fn everything_came_once() {
        let layout = LoadLayout::new(&options(), "x");
        let verdict = DeliveryAudit::by_stamps(&layout, &[published(&[3], &[])], vec![consumed(&[(0, 0, &[0, 1, 2])])]);
        assert_eq!(verdict, DeliveryAudit::default());
        assert!(verdict.faults().is_empty());
    }

    #[test]
    fn faults_are_counted() {
        let layout = LoadLayout::new(&options(), "x");
        let seen = vec![consumed(&[(0, 0, &[0, 2, 1, 2, 9])])];
        let verdict = DeliveryAudit::by_stamps(&layout, &[published(&[5], &[])], seen);
        assert_eq!(verdict, DeliveryAudit { lost: 2, duplicated: 1, disordered: 1, foreign: 1, redelivered: 0 });
        assert_eq!(verdict.faults().len(), 4);
        assert_eq!(verdict.faults()[0], "2 messages lost");
        let silent = DeliveryAudit::by_stamps(&layout, &[published(&[5], &[])], Vec::new());
        assert_eq!(silent.lost, 5);
    }

    #[test]
    fn refused_messages_may_be_missing_and_may_come() {
        let layout = LoadLayout::new(&options(), "x");
        let of = |numbers: &[u64]| {
            DeliveryAudit::by_stamps(&layout, &[published(&[4], &[1, 2])], vec![consumed(&[(0, 0, numbers)])]).lost
        };
        assert_eq!((of(&[0, 3]), of(&[0, 1, 3]), of(&[0, 1, 2, 3]), of(&[1, 2])), (0, 0, 0, 2));
    }

    #[test]
    fn consumers_share_a_queue_and_producers_share_queues() {
        let mut options = options();
        (options.consumers, options.queues, options.channels) = (2, 2, 2);
        let layout = LoadLayout::new(&options, "x");
        // Two channels take turns over two queues; channel 0 published 5, channel 1 4.
        let one = consumed(&[(0, 0, &[0, 2]), (0, 1, &[0, 1]), (1, 0, &[0])]);
        let two = consumed(&[(0, 0, &[1]), (1, 0, &[1]), (1, 1, &[0, 1])]);
        assert_eq!(
            DeliveryAudit::by_stamps(&layout, &[published(&[5, 4], &[])], vec![one, two]),
            DeliveryAudit::default()
        );
    }

    #[test]
    fn a_fanout_owes_each_queue_everything() {
        let mut options = options();
        (options.exchange, options.queues) = (Some(ExchangeKind::Fanout), 3);
        let layout = LoadLayout::new(&options, "x");
        let seen = vec![consumed(&[(0, 0, &[0, 1]), (1, 0, &[0, 1]), (2, 0, &[0])])];
        assert_eq!(DeliveryAudit::by_stamps(&layout, &[published(&[2], &[])], seen).lost, 1);
    }

    #[test]
    fn numbers_alone_tell_loss() {
        assert_eq!(DeliveryAudit::by_count(10, 0, 8).lost, 2);
        assert_eq!(DeliveryAudit::by_count(10, 2, 8), DeliveryAudit::default());
        assert_eq!(DeliveryAudit::by_count(10, 0, 12).foreign, 2);
    }
}

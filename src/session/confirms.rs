//! Publisher confirms of one channel (RabbitMQ's confirm.select): which can be sent, and which wait
//! for the journal. Sends nothing.

use leveret_journal::index::Index;
use std::collections::{BTreeSet, VecDeque};

/// The channel of a publication and its number there, by which its confirm names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmTag {
    /// Channel number.
    pub channel: u16,
    /// Number from 1; 0 if the channel is not in confirm mode.
    pub number: u64,
}

/// A publisher confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// basic.ack of a publication; `multiple`: and of those before it.
    Ack {
        /// Its number.
        number: u64,
        /// The confirm covers several.
        multiple: bool,
    },
    /// basic.nack of a publication: a queue has rejected it.
    Nack {
        /// Its number.
        number: u64,
    },
}

/// Publications of a channel in confirm mode, numbered from 1, that are not confirmed yet.
#[derive(Debug, Default)]
pub struct PendingConfirms {
    published: u64,
    due: u64,
    confirmed: u64,
    /// Publication numbers and the index at which all up to them can be confirmed; both ascend.
    waiting: VecDeque<(u64, Index)>,
    /// Numbers above `confirmed` that queues have rejected.
    rejected: BTreeSet<u64>,
}

impl PendingConfirms {
    /// Returns the number that the next publication will have.
    pub fn next_number(&self) -> u64 {
        self.published + 1
    }

    /// Returns the number of the last publication that was confirmed or rejected.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Counts a publication.
    pub fn published(&mut self) {
        self.published += 1;
    }

    /// Notes that a queue has rejected a publication of this batch.
    pub fn reject(&mut self, number: u64) {
        self.rejected.insert(number);
    }

    /// Ends a batch: makes all publications so far due when `index` is durable; without an index,
    /// as soon as the earlier ones are.
    pub fn end_batch(&mut self, index: Option<Index>) {
        match (index, self.waiting.back_mut()) {
            (Some(index), _) => self.waiting.push_back((self.published, index)),
            (None, Some((upto, _))) => *upto = self.published,
            (None, None) => self.due = self.published,
        }
    }

    /// Takes the next confirm that can be sent, in the order of publications.
    pub fn next_due(&mut self, durable: Index) -> Option<Confirm> {
        while let Some((upto, _)) = self.waiting.front().copied().filter(|(_, index)| *index <= durable) {
            self.due = upto;
            self.waiting.pop_front();
        }
        let first = self.confirmed + 1;
        if first > self.due {
            return None;
        }
        self.confirmed = match self.rejected.first().copied() {
            Some(number) if number == first => {
                self.rejected.pop_first();
                self.confirmed = number;
                return Some(Confirm::Nack { number });
            }
            Some(number) => self.due.min(number - 1),
            None => self.due,
        };
        Some(Confirm::Ack { number: self.confirmed, multiple: self.confirmed > first })
    }

    /// Returns the index that has to be durable for the next confirm.
    pub fn waits_for(&self) -> Option<Index> {
        self.waiting.front().map(|(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn confirms_are_due_once_in_order_and_when_their_position_is_durable() {
        let (mut confirms, at) = (PendingConfirms::default(), Index::from_number);
        let ack = |number, multiple| Some(Confirm::Ack { number, multiple });
        assert_eq!(confirms.next_due(at(9)), None);
        let mut publish = |count: usize, index: Option<u64>| {
            (0..count).for_each(|_| confirms.published());
            confirms.end_batch(index.map(at));
            confirms.next_due(at(9))
        };
        assert_eq!(publish(1, None), ack(1, false));
        assert_eq!(publish(2, Some(9)), ack(3, true));
        assert_eq!(publish(1, Some(10)), None);
        // A publication that need not wait does not overtake one that does.
        assert_eq!(publish(1, None), None);
        assert_eq!(publish(1, Some(12)), None);
        assert_eq!(confirms.waits_for(), Some(at(10)));
        assert_eq!(confirms.next_due(at(11)), ack(5, true));
        assert_eq!(confirms.waits_for(), Some(at(12)));
        assert_eq!(confirms.next_due(at(12)), ack(6, false));
        assert_eq!((confirms.next_due(at(12)), confirms.waits_for()), (None, None));
    }

    /// A publication as the client of the channel sees it.
    #[derive(Debug)]
    struct Publication {
        is_rejected: bool,
        /// Index that it waits for: that of its batch or of an earlier one.
        until: u64,
    }

    proptest! {
        /// Batches of publications, each with whether a queue rejects it, with or without an index;
        /// in between the journal goes on.
        #[test]
        fn each_publication_is_answered_once_and_truly_in_order_and_not_early(
            steps in proptest::collection::vec(
                (proptest::collection::vec(any::<bool>(), 0..6), proptest::option::of(1u64..4), 0u64..4),
                1..40,
            ),
        ) {
            let mut confirms = PendingConfirms::default();
            let mut publications: Vec<Publication> = Vec::new();
            let (mut last_index, mut durable, mut answered) = (0, 0, 0);
            for (batch, index, progress) in steps {
                for is_rejected in &batch {
                    let number = confirms.next_number();
                    confirms.published();
                    prop_assert_eq!(number, publications.len() as u64 + 1);
                    if *is_rejected {
                        confirms.reject(number);
                        // As when a second queue rejects it too.
                        confirms.reject(number);
                    }
                    publications.push(Publication { is_rejected: *is_rejected, until: 0 });
                }
                let index = index.filter(|_| !batch.is_empty()).map(|step| last_index + step);
                last_index = index.unwrap_or(last_index);
                let from = publications.len() - batch.len();
                publications[from..].iter_mut().for_each(|publication| publication.until = last_index);
                confirms.end_batch(index.map(Index::from_number));
                durable = (durable + progress).min(last_index);
                while let Some(confirm) = confirms.next_due(Index::from_number(durable)) {
                    let (number, multiple, is_nack) = match confirm {
                        Confirm::Ack { number, multiple } => (number as usize, multiple, false),
                        Confirm::Nack { number } => (number as usize, false, true),
                    };
                    prop_assert!(number > answered && (multiple || number == answered + 1));
                    for publication in &publications[answered..number] {
                        prop_assert!(publication.is_rejected == is_nack && publication.until <= durable);
                    }
                    answered = number;
                }
                let due = publications.iter().take_while(|publication| publication.until <= durable).count();
                prop_assert_eq!(answered, due);
                prop_assert_eq!(confirms.waits_for().is_some(), due < publications.len());
            }
        }
    }
}

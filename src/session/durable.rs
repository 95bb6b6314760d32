//! What waits until the journal has something: publisher confirms, and a reader whom the journal cannot follow. It writes nothing
//! itself.

use crate::outbox::{Outbox, Touched};
use crate::session::channel::{Channel, Mode, Stage};
use crate::session::running::Running;
use crate::store::journal::{Journal, OnDurable};
use crate::store::position::Position;
use crate::wire::encode_reply::Reply;
use std::sync::Arc;

impl Running {
    /// What was published in this batch has come to the journal: confirms that need not wait for it go out.
    pub(super) fn end_confirms(&mut self, touched: &mut Touched) {
        let position = self.batch.runs.take_position();
        if self.batch.confirming.is_empty() {
            return;
        }
        for (number, waits) in self.batch.confirming.drain(..) {
            let channel = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut);
            if let Some(Channel { mode: Mode::Confirm(confirms), stage: Stage::Running, .. }) = channel {
                confirms.end_batch(position.filter(|_| waits));
                if !self.awaited.channels.contains(&number) {
                    self.awaited.channels.push(number);
                }
            }
        }
        self.send_confirms(touched);
    }

    /// Sends the confirms that are due, and has the journal ring for what comes next.
    pub(super) fn send_confirms(&mut self, touched: &mut Touched) {
        while !self.awaited.channels.is_empty() || self.awaited.holds {
            let durable = self.journal().map_or(Position::ZERO, |journal| journal.durable());
            let confirms = self.send_due(durable, touched);
            let held = self.release_held(durable, touched);
            let Some(next) = [confirms, held].into_iter().flatten().min() else { return };
            self.awaited.watched = self.awaited.watched.filter(|watched| *watched > durable);
            if self.awaited.watched.is_some_and(|watched| watched <= next) {
                return;
            }
            if self.watch(next) {
                self.awaited.watched = Some(next);
                return;
            }
        }
    }

    /// Lets go of replies that were held; the position that has to be durable next.
    fn release_held(&mut self, durable: Position, touched: &mut Touched) -> Option<Position> {
        if !self.awaited.holds {
            return None;
        }
        let mut inner = self.outbox.lock();
        if inner.release(durable) {
            touched.add(&self.outbox, &mut inner);
        }
        let next = inner.held_for();
        self.awaited.holds = next.is_some();
        next
    }

    /// Sends what is due; the position that has to be durable next.
    fn send_due(&mut self, durable: Position, touched: &mut Touched) -> Option<Position> {
        let Self { awaited, channels, outbox, .. } = self;
        let mut next: Option<Position> = None;
        let mut inner = None;
        awaited.channels.retain(|number| {
            let channel = channels.get_mut(usize::from(*number)).and_then(Option::as_deref_mut);
            let Some(Channel { mode: Mode::Confirm(confirms), stage: Stage::Running, .. }) = channel else {
                return false;
            };
            if let Some((tag, multiple)) = confirms.take_due(durable) {
                inner.get_or_insert_with(|| outbox.lock()).confirm(*number, tag, multiple);
            }
            let waits_for = confirms.waits_for();
            next = waits_for.map_or(next, |position| Some(next.map_or(position, |next| next.min(position))));
            waits_for.is_some()
        });
        if let Some(mut inner) = inner {
            touched.add(outbox, &mut inner);
        }
        next
    }

    /// Has the journal ring at a position. False: it is durable. If the journal has failed, the connection is asked to close.
    fn watch(&self, position: Position) -> bool {
        let Some(journal) = self.journal() else { return false };
        let outbox = Arc::<Outbox>::clone(&self.outbox) as Arc<dyn OnDurable>;
        journal.watch(position, &outbox).unwrap_or_else(|failure| {
            outbox.failed(&failure);
            true
        })
    }

    /// Appends a reply that is written when `position` is durable.
    pub(super) fn say_when_durable(
        &mut self,
        number: u16,
        reply: &Reply<'_>,
        position: Option<Position>,
        touched: &mut Touched,
    ) {
        let durable = self.journal().map(|journal| journal.durable());
        let later = position.filter(|position| durable.is_some_and(|durable| *position > durable));
        let Some(position) = later else { return self.say(number, reply, touched) };
        self.outbox.lock().hold_until(position);
        self.awaited.holds = true;
        self.say(number, reply, touched);
        self.send_confirms(touched);
    }

    /// The connection is over, and its session does not look at the journal any more: what is held is let go by the outbox itself, all
    /// at once.
    pub(super) fn leave_held(&mut self, touched: &mut Touched) {
        let last = self.outbox.lock().held_to_the_end();
        if let Some(last) = last
            && !self.watch(last)
        {
            let mut inner = self.outbox.lock();
            inner.release(last);
            touched.add(&self.outbox, &mut inner);
        }
    }

    /// Reads no more if more waits for the disk than should.
    pub(super) fn look_at_journal(&mut self) {
        if self.is_publisher
            && self.awaited.crowded.is_none()
            && let Some(journal) = self.journal()
            && journal.is_full()
        {
            let end = journal.end();
            journal.hurry();
            if self.watch(end) {
                self.awaited.crowded = Some(end);
                self.paused = true;
            }
        }
    }

    /// The journal has come on.
    pub(super) fn journal_rang(&mut self, touched: &mut Touched) {
        let Some(journal) = self.journal() else { return };
        let durable = journal.durable();
        self.awaited.crowded = self.awaited.crowded.filter(|end| *end > durable);
        self.send_confirms(touched);
    }

    pub(super) fn journal(&self) -> Option<&Arc<Journal>> {
        self.vhost.shared().journal()
    }
}

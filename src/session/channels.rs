//! The channels of one connection by number. Names none of their rules.

use crate::session::channel::Channel;
use crate::session::turn::Turn;
use leveret_wire::fault::{Code, Fault};

/// Channels by number.
#[derive(Debug, Default)]
pub(super) struct Channels {
    places: Vec<Option<Box<Channel>>>,
    open: usize,
}

impl Channels {
    /// Returns the channel `number` if it is in use.
    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut Channel> {
        self.places.get_mut(usize::from(number))?.as_deref_mut()
    }

    /// Returns the channel `number` if it is in use.
    pub(super) fn get(&self, number: u16) -> Option<&Channel> {
        self.places.get(usize::from(number))?.as_deref()
    }

    /// Starts a channel on an unused number.
    ///
    /// # Errors
    /// 530 if `max` channels are in use; 0 is no limit.
    pub(super) fn start(&mut self, number: u16, max: u16) -> Result<(), Fault> {
        let open = self.open;
        if max != 0 && open >= usize::from(max) {
            let text = format!("number of channels opened ({open}) has reached the negotiated channel_max ({max})");
            return Err(Fault::new(Code::NotAllowed, text));
        }
        let at = usize::from(number);
        if self.places.len() <= at {
            self.places.resize_with(at + 1, || None);
        }
        if let Some(place) = self.places.get_mut(at) {
            *place = Some(Box::default());
            self.open += 1;
        }
        Ok(())
    }

    /// Removes the channel `number`.
    pub(super) fn forget(&mut self, number: u16) {
        if let Some(place) = self.places.get_mut(usize::from(number))
            && place.take().is_some()
        {
            self.open -= 1;
        }
    }

    /// Returns the number of channels with a body of which a part has come.
    pub(super) fn unfinished_bodies(&self) -> usize {
        self.places.iter().flatten().filter(|channel| channel.assembly.is_unfinished()).count()
    }

    /// Returns the numbers in use.
    pub(super) fn numbers(&self) -> Vec<u16> {
        (0..=u16::MAX).zip(&self.places).filter_map(|(number, place)| place.as_ref().map(|_| number)).collect()
    }

    /// Lets consumers (channel, slot) go on that a full buffer had stopped.
    pub(super) fn resume<'a>(&self, slots: impl IntoIterator<Item = &'a (u16, u32)>, turn: &mut Turn<'_>) {
        for (number, slot) in slots {
            if let Some(channel) = self.get(*number) {
                channel.consuming.slots().resume(*slot, turn.flush);
            }
        }
    }

    /// Lets consumers of a channel go on that its limit had stopped.
    pub(super) fn resume_limited(&self, number: u16, turn: &mut Turn<'_>) {
        if let Some(channel) = self.get(number) {
            channel.consuming.slots().resume_limited(number, turn.outbox, turn.flush);
        }
    }
}

//! Sockets whose peers have not logged in. Their number is bounded; each may leave at most
//! [`limits::FRAME_SIZE_BEFORE_TUNE`] octets, so their sum is, too. While there is no place for a
//! newcomer, the network that has most of them gives up the first that had its time: little for a
//! socket on which nothing was sent, enough for a login under way.

use crate::broker::failed_logins::network;
use crate::clock::{Clock, Tick};
use crate::limits;
use crate::outbox::Outbox;
use crate::server::descriptors;
use hashbrown::HashMap;
use leveret_wire::fault::{Code, Fault};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Notify;

/// Time that a socket has to send a protocol header before another one may get its place, in ms.
const HEADER_MS: u64 = 100;
/// Time that it has to log in, likewise.
const LOGIN_MS: u64 = 1_000;
/// Time that a socket has to leave when it was told to, before another one is told, in ms.
const LEAVE_MS: u64 = 20;
/// Part of the process's descriptors that strangers may have.
const DESCRIPTORS_PART: usize = 4;

/// The sockets whose peers have not logged in.
#[derive(Debug)]
pub struct Strangers {
    max: usize,
    places: Mutex<Places>,
    /// Notified when a place is given up.
    left: Notify,
}

#[derive(Debug, Default)]
struct Places {
    /// By number, so the oldest come first.
    taken: BTreeMap<u64, Stranger>,
    last_number: u64,
}

/// A socket whose peer has not logged in.
#[derive(Debug)]
struct Stranger {
    network: IpAddr,
    /// Its place may be given to another from then on.
    keeps_until: Tick,
    outbox: Arc<Outbox>,
    /// The connection was told to end.
    was_told: bool,
}

/// The place of one socket. Dropped when its peer has logged in, or has gone.
#[derive(Debug)]
pub struct StrangerPlace {
    strangers: Arc<Strangers>,
    number: u64,
    since: Tick,
    /// A login is under way.
    is_login: bool,
}

/// Outcome of looking for a free place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// There is one.
    Free,
    /// There may be one at this tick, or when somebody leaves.
    From(Tick),
}

impl Strangers {
    /// Creates room for [`limits::STRANGERS`] sockets, fewer where the process may have few
    /// descriptors.
    pub fn new() -> Arc<Self> {
        let part = descriptors::for_connections().map_or(usize::MAX, |most| most / DESCRIPTORS_PART);
        Self::at_most(limits::STRANGERS.min(part.max(1)))
    }

    /// Creates room for `max` sockets.
    pub fn at_most(max: usize) -> Arc<Self> {
        Arc::new(Self { max, places: Mutex::default(), left: Notify::new() })
    }

    /// Waits until there is a place for one more.
    pub async fn room(&self, clock: &Clock) {
        while let Room::From(again) = self.look(clock.now()) {
            tokio::select! {
                () = self.left.notified() => {}
                () = clock.sleep_until(again) => {}
            }
        }
    }

    /// Looks for a free place; if there is none, tells somebody to leave.
    fn look(&self, now: Tick) -> Room {
        let mut places = self.places.lock();
        if places.taken.len() < self.max {
            return Room::Free;
        }
        let Some(stranger) = places.first_of_the_most() else { return Room::From(now + LEAVE_MS) };
        if stranger.keeps_until > now {
            return Room::From(stranger.keeps_until);
        }
        stranger.was_told = true;
        let outbox = Arc::clone(&stranger.outbox);
        drop(places);
        outbox.ask_to_close(Fault::new(Code::ConnectionForced, "too many sockets wait for their login"));
        Room::From(now + LEAVE_MS)
    }

    /// Gives a place to a socket from `peer` with this outbox.
    pub fn admit(self: &Arc<Self>, peer: IpAddr, now: Tick, outbox: &Arc<Outbox>) -> StrangerPlace {
        let keeps_until = now + HEADER_MS;
        let stranger = Stranger { network: network(peer), keeps_until, outbox: Arc::clone(outbox), was_told: false };
        let mut places = self.places.lock();
        places.last_number += 1;
        let number = places.last_number;
        places.taken.insert(number, stranger);
        drop(places);
        StrangerPlace { strangers: Arc::clone(self), number, since: now, is_login: false }
    }
}

impl Places {
    /// Returns the stranger of the network that has the most whose time is up first, apart from
    /// those who are leaving.
    fn first_of_the_most(&mut self) -> Option<&mut Stranger> {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for stranger in self.taken.values().filter(|stranger| !stranger.was_told) {
            *counts.entry(stranger.network).or_default() += 1;
        }
        let (network, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let theirs = self.taken.values_mut().filter(|stranger| stranger.network == network && !stranger.was_told);
        theirs.min_by_key(|stranger| stranger.keeps_until)
    }
}

impl StrangerPlace {
    /// Gives a peer that has sent a protocol header the time that a login takes.
    pub fn begin_login(&mut self) {
        if !std::mem::replace(&mut self.is_login, true) {
            self.keep_until(self.since + LOGIN_MS);
        }
    }

    /// Leaves the place to the next who needs it: the login has failed.
    pub fn fail_login(&mut self) {
        self.keep_until(Tick::default());
    }

    fn keep_until(&self, keeps_until: Tick) {
        let mut places = self.strangers.places.lock();
        if let Some(stranger) = places.taken.get_mut(&self.number) {
            stranger.keeps_until = keeps_until;
        }
    }
}

impl Drop for StrangerPlace {
    fn drop(&mut self) {
        self.strangers.places.lock().taken.remove(&self.number);
        self.strangers.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    fn is_told(outbox: &Outbox) -> bool {
        outbox.lock().take_pending_actions().close.is_some()
    }

    #[test]
    fn a_newcomer_gets_the_place_of_the_first_of_whoever_has_most_after_a_while() {
        let strangers = Strangers::at_most(4);
        let outboxes: [Arc<Outbox>; 4] = std::array::from_fn(|_| Arc::new(Outbox::default()));
        let mut places = Vec::new();
        for ((at, outbox), from) in outboxes.iter().enumerate().zip([1, 2, 2, 3]) {
            assert_eq!(strangers.look(Tick(0)), Room::Free);
            places.push(strangers.admit(address(from), Tick(at as u64), outbox));
        }
        assert_eq!(strangers.look(Tick(10)), Room::From(Tick(1 + HEADER_MS)), "it is to have time");
        assert!(outboxes.iter().all(|outbox| !is_told(outbox)));
        let now = Tick(1 + HEADER_MS);
        assert_eq!(strangers.look(now), Room::From(now + LEAVE_MS));
        assert_eq!(outboxes.each_ref().map(|outbox| is_told(outbox)), [false, true, false, false]);
        places.remove(1);
        assert_eq!(strangers.look(now), Room::Free);
    }

    #[test]
    fn a_login_under_way_has_more_time_than_a_silent_socket() {
        let strangers = Strangers::at_most(2);
        let outboxes: [Arc<Outbox>; 2] = std::array::from_fn(|_| Arc::new(Outbox::default()));
        let [mut login, silent] = outboxes.each_ref().map(|outbox| strangers.admit(address(1), Tick(0), outbox));
        login.begin_login();
        assert_eq!(strangers.look(Tick(HEADER_MS)), Room::From(Tick(HEADER_MS + LEAVE_MS)));
        assert_eq!(outboxes.each_ref().map(|outbox| is_told(outbox)), [false, true]);
        drop(silent);
        let _another = strangers.admit(address(1), Tick(LOGIN_MS), &outboxes[1]);
        assert_eq!(strangers.look(Tick(LOGIN_MS)), Room::From(Tick(LOGIN_MS + LEAVE_MS)));
        assert!(is_told(&outboxes[0]), "it takes too long");
    }

    #[test]
    fn a_failed_login_gives_up_its_place_first() {
        let strangers = Strangers::at_most(2);
        let outboxes: [Arc<Outbox>; 2] = std::array::from_fn(|_| Arc::new(Outbox::default()));
        let [_silent, mut failed] = outboxes.each_ref().map(|outbox| strangers.admit(address(1), Tick(0), outbox));
        failed.begin_login();
        failed.fail_login();
        assert_eq!(strangers.look(Tick(1)), Room::From(Tick(1 + LEAVE_MS)));
        assert_eq!(outboxes.each_ref().map(|outbox| is_told(outbox)), [false, true]);
    }

    #[test]
    fn who_does_not_leave_does_not_keep_others_from_being_told() {
        let strangers = Strangers::at_most(3);
        let outboxes: [Arc<Outbox>; 3] = std::array::from_fn(|_| Arc::new(Outbox::default()));
        let _places = outboxes.each_ref().map(|outbox| strangers.admit(address(1), Tick(0), outbox));
        for (told, outbox) in outboxes.iter().enumerate() {
            let now = Tick(HEADER_MS + told as u64 * LEAVE_MS);
            assert_eq!(strangers.look(now), Room::From(now + LEAVE_MS));
            assert!(is_told(outbox), "{told}");
        }
        let now = Tick(2 * LOGIN_MS);
        assert_eq!(strangers.look(now), Room::From(now + LEAVE_MS), "all were told");
    }

    #[tokio::test]
    async fn room_is_awaited_until_somebody_leaves_or_had_time() {
        let (clock, hand) = Clock::manual();
        let strangers = Strangers::at_most(1);
        let outbox = Arc::new(Outbox::default());
        let place = strangers.admit(address(1), clock.now(), &outbox);
        let waits = tokio::spawn({
            let (strangers, clock) = (Arc::clone(&strangers), clock.clone());
            async move { strangers.room(&clock).await }
        });
        while hand.next_deadline() != Some(Tick(HEADER_MS)) {
            tokio::task::yield_now().await;
        }
        assert!(!is_told(&outbox) && !waits.is_finished());
        hand.advance(HEADER_MS);
        while !is_told(&outbox) {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished());
        drop(place);
        waits.await.unwrap();
    }
}

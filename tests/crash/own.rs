//! A client that has a queue for itself, and so knows at each moment what is in it, in which order,
//! and what is marked as redelivered.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::client::{Client, Event, Rng, Shared, Worked};
use crate::history::{Found, Id};
use crate::load::taken;

/// The queue as it must be now.
struct Own {
    client: Client,
    queue: &'static str,
    /// By their place: what is ready, and whether it is marked.
    ready: BTreeMap<u64, (Id, bool)>,
    /// By delivery tag: place and id.
    unacked: BTreeMap<u64, (u64, Id)>,
    places: u64,
}

/// `there` is what was found in it after the start.
pub fn own(
    address: SocketAddr,
    number: u32,
    rng: Rng,
    history: Shared,
    queue: &'static str,
    there: Vec<Found>,
) -> Worked {
    let mut client = Client::confirming(address, number, rng, &history)?;
    client.queues.insert(String::new(), queue);
    let ready: BTreeMap<_, _> = (0..).zip(there.iter().map(|found| (found.id, true))).collect();
    let mut own = Own { client, queue, places: ready.len() as u64, ready, unacked: BTreeMap::new() };
    loop {
        match own.client.rng.below(40) {
            0..14 => own.publish()?,
            14..24 => own.get()?,
            24..30 => own.ack()?,
            30..33 => own.nack()?,
            33 => own.recover()?,
            34 => own.purge()?,
            35 => own.delete()?,
            36..39 => own.client.await_confirms(0)?,
            _ => own.client.sync()?,
        }
    }
}

impl Own {
    fn publish(&mut self) -> Worked {
        for _ in 0..=self.client.rng.below(12) {
            let persistent = self.client.rng.below(4) > 0;
            let to = if self.client.rng.one_in(2) { "exchange=own " } else { "" };
            let id = self.client.publish(&format!("{to}routing-key={}", self.queue), &[self.queue], persistent)?;
            self.ready.insert(self.places, (id, false));
            self.places += 1;
        }
        Ok(())
    }

    fn get(&mut self) -> Worked {
        for _ in 0..=self.client.rng.below(5) {
            let next = self.ready.pop_first();
            let auto = self.client.rng.one_in(6);
            if let Some((_, (id, _))) = next {
                self.client.history().is_asked_for(self.queue, id);
            }
            let text = format!("queue={}{}", self.queue, if auto { " no-ack" } else { "" });
            if auto && let Some((_, (id, _))) = next {
                // Gone with the delivery: sure once something later is.
                self.client.history().may_go_when_delivered(self.queue, id);
            }
            self.client.send("basic.get", &text)?;
            match (self.client.event()?, next) {
                (Event::Message { tag, found }, Some((at, (id, is_marked)))) => {
                    let queue = self.queue;
                    assert_eq!((found.id, found.redelivered), (id, is_marked), "{queue}: got another one");
                    if auto {
                        self.client.gives_up(self.queue, id, "got without ack");
                    } else {
                        self.unacked.insert(tag, (at, id));
                    }
                }
                (Event::Answer(heard), None) if heard.method() == Some("basic.get-empty") => {}
                (event, next) => panic!("{}: {event:?} instead of {next:?}", self.queue),
            }
        }
        Ok(())
    }

    /// A delivery tag that is out.
    fn any(&mut self) -> Option<u64> {
        let n = self.client.rng.below(self.unacked.len().max(1) as u64);
        self.unacked.keys().nth(n as usize).copied()
    }

    fn ack(&mut self) -> Worked {
        let Some(tag) = self.any() else { return Ok(()) };
        let is_all = self.client.rng.one_in(3);
        let later = if is_all { self.unacked.split_off(&(tag + 1)) } else { BTreeMap::new() };
        let acked = if is_all {
            std::mem::replace(&mut self.unacked, later)
        } else {
            self.unacked.remove_entry(&tag).into_iter().collect()
        };
        for (_, id) in acked.into_values() {
            self.client.gives_up(self.queue, id, "ack sent");
        }
        self.client.send("basic.ack", &format!("delivery-tag={tag}{}", if is_all { " multiple" } else { "" }))
    }

    fn nack(&mut self) -> Worked {
        let Some(tag) = self.any() else { return Ok(()) };
        let Some((at, id)) = self.unacked.remove(&tag) else { return Ok(()) };
        if self.client.rng.one_in(3) {
            self.client.gives_up(self.queue, id, "nack sent");
            return self.client.send("basic.nack", &format!("delivery-tag={tag}"));
        }
        self.ready.insert(at, (id, true));
        self.client.send("basic.nack", &format!("delivery-tag={tag} requeue"))
    }

    fn recover(&mut self) -> Worked {
        self.client.recover()?;
        let back = std::mem::take(&mut self.unacked).into_values();
        self.ready.extend(back.map(|(at, id)| (at, (id, true))));
        Ok(())
    }

    fn purge(&mut self) -> Worked {
        let ready = std::mem::take(&mut self.ready);
        for (id, _) in ready.values() {
            self.client.gives_up(self.queue, *id, "purge sent");
        }
        let count = taken(&mut self.client, "queue.purge", &format!("queue={}", self.queue))?;
        assert_eq!(count, ready.len() as u64, "{}: purged", self.queue);
        Ok(())
    }

    fn delete(&mut self) -> Worked {
        let name = format!("queue {}", self.queue);
        self.client.await_confirms(0)?;
        self.client.history().all_may_go(self.queue, "queue.delete sent");
        self.client.history().may_be(&name);
        let count = taken(&mut self.client, "queue.delete", &format!("queue={}", self.queue))?;
        assert_eq!(count, self.ready.len() as u64, "{}: deleted", self.queue);
        self.client.history().all_are_gone(self.queue);
        self.ready.clear();
        self.unacked.clear();
        self.client.call("queue.declare", &format!("queue={} durable", self.queue))?;
        self.client.history().is_there(&name);
        self.client.call("queue.bind", &format!("queue={0} exchange=own routing-key={0}", self.queue))?;
        Ok(())
    }
}

//! Failed logins by address: an address that goes on failing waits before each further login is
//! looked at. Told the time; sends nothing.

use crate::clock::Tick;
use crate::limits;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv6Addr};

/// The failed logins of the addresses that have failed lately.
#[derive(Debug, Default)]
pub struct FailedLogins {
    addresses: Mutex<HashMap<IpAddr, Failures>>,
}

/// Failures of one address. One is forgotten every [`limits::LOGIN_FORGOTTEN_MS`].
#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u64,
    /// When `count` was right.
    at: Tick,
}

impl Failures {
    /// Returns how many failures are not forgotten at `now`.
    fn left(self, now: Tick) -> u64 {
        self.count.saturating_sub(now.since(self.at) / limits::LOGIN_FORGOTTEN_MS)
    }
}

impl FailedLogins {
    /// Counts a failed login. Returns true if logins from that address wait from now on.
    pub fn add(&self, address: IpAddr, now: Tick) -> bool {
        let address = network(address);
        let mut addresses = self.addresses.lock();
        if addresses.len() >= limits::FAILED_LOGIN_ADDRESSES && !addresses.contains_key(&address) {
            make_room(&mut addresses, now);
        }
        let failures = addresses.entry(address).or_insert(Failures { count: 0, at: now });
        let left = failures.left(now);
        if left < failures.count || left == 0 {
            failures.at = now;
        }
        // More would only be remembered for longer.
        failures.count = (left + 1).min(limits::FAILED_LOGINS_MAX);
        left == limits::FAILED_LOGINS_FREE
    }

    /// Returns how long a login from this address waits before it is looked at, in ms.
    pub fn delay_ms(&self, address: IpAddr, now: Tick) -> u64 {
        let failures = self.addresses.lock().get(&network(address)).copied();
        let left = failures.map_or(0, |failures| failures.left(now));
        let delay = left.saturating_sub(limits::FAILED_LOGINS_FREE) * limits::FAILED_LOGIN_DELAY_MS;
        delay.min(limits::FAILED_LOGIN_DELAY_MAX_MS)
    }
}

/// Forgets addresses without failures; if there are none, the one with the fewest.
fn make_room(addresses: &mut HashMap<IpAddr, Failures>, now: Tick) {
    addresses.retain(|_, failures| failures.left(now) > 0);
    if addresses.len() >= limits::FAILED_LOGIN_ADDRESSES {
        let fewest = addresses.iter().min_by_key(|(_, failures)| (failures.left(now), failures.at));
        if let Some(address) = fewest.map(|(address, _)| *address) {
            addresses.remove(&address);
        }
    }
}

/// Returns the network that one peer has to itself: an IPv4 address, or 64 bits of an IPv6 one.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn who_goes_on_failing_waits_longer_and_longer_up_to_a_bound_and_others_do_not() {
        let failed = FailedLogins::default();
        let mut waits = Vec::new();
        for _ in 0..limits::FAILED_LOGINS_FREE + 50 {
            failed.add(address(1), Tick(0));
            waits.push(failed.delay_ms(address(1), Tick(0)));
        }
        let free = limits::FAILED_LOGINS_FREE as usize;
        assert!(waits[..free].iter().all(|wait| *wait == 0), "{waits:?}");
        assert_eq!(waits[free], limits::FAILED_LOGIN_DELAY_MS);
        assert!(waits.is_sorted());
        assert_eq!(waits.last(), Some(&limits::FAILED_LOGIN_DELAY_MAX_MS));
        assert_eq!(failed.delay_ms(address(2), Tick(0)), 0);
    }

    #[test]
    fn failures_are_forgotten_and_seldom_ones_never_make_a_login_wait() {
        let failed = FailedLogins::default();
        for n in 0..1_000 {
            let now = Tick(n * limits::LOGIN_FORGOTTEN_MS);
            failed.add(address(1), now);
            assert_eq!(failed.delay_ms(address(1), now), 0, "{n}");
        }
        for _ in 0..10_000 {
            failed.add(address(2), Tick(0));
        }
        let later = Tick(limits::FAILED_LOGINS_MAX * limits::LOGIN_FORGOTTEN_MS);
        assert_eq!(failed.delay_ms(address(2), later), 0);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_whoever_has_failed_most() {
        let failed = FailedLogins::default();
        for _ in 0..limits::FAILED_LOGINS_FREE + 1 {
            failed.add(address(0), Tick(0));
        }
        for number in 1..=2 * limits::FAILED_LOGIN_ADDRESSES as u32 {
            failed.add(address(number), Tick(1));
        }
        assert_eq!(failed.addresses.lock().len(), limits::FAILED_LOGIN_ADDRESSES);
        assert!(failed.delay_ms(address(0), Tick(1)) > 0);
    }

    #[test]
    fn one_network_is_one_peer() {
        let same = |one: &str, other: &str| network(one.parse().unwrap()) == network(other.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
    }
}

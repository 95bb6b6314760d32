//! The account of the memory that peers make a broker keep. Every octet is charged as long as it is
//! kept: messages (once, however many queues hold one), the entries of queues, unfinished bodies,
//! octets that wait to be written, definitions. Names no module that is charged, and no alarm.
//!
//! Each thread adds to a counter of its own that no other thread writes to, so that a message costs
//! no shared atomic operation; a counter that has moved by [`THREAD_SLACK`] octets is added to the
//! account's total.

use parking_lot::Mutex;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

/// Most octets, up or down, that a thread's counter holds before they are added to the total.
pub const THREAD_SLACK: u64 = 16 * 1024;

/// Threads that have a counter of their own. Further ones add to the total directly.
const THREADS: usize = 64;

/// Removes all elements of a list, and frees its memory, which is not charged, if that suffices for
/// more than `most`.
pub fn recycle<T>(list: &mut Vec<T>, most: usize) {
    list.clear();
    if list.capacity() > most {
        *list = Vec::new();
    }
}

/// The account of one broker. Copies name the same account.
#[derive(Clone, Copy)]
pub struct MemoryAccount(&'static AccountTotals);

#[repr(align(128))]
struct Padded(AtomicI64);

impl Padded {
    const fn new() -> Self {
        Self(AtomicI64::new(0))
    }
}

struct AccountTotals {
    total: Padded,
    threads: [Padded; THREADS],
    /// Octets that connections have grown (see [`ConnectionMemory`]); part of the total.
    connections: Padded,
    /// Names and arguments of queues, exchanges and bindings; part of the total.
    definitions: Padded,
    /// Octets of caches; part of the total.
    caches: Padded,
    is_scarce: AtomicBool,
}

impl AccountTotals {
    const fn new() -> Self {
        Self {
            total: Padded::new(),
            threads: [const { Padded::new() }; THREADS],
            connections: Padded::new(),
            definitions: Padded::new(),
            caches: Padded::new(),
            is_scarce: AtomicBool::new(false),
        }
    }
}

/// The account for messages without a broker: those of tests and tools.
static NO_BROKER: AccountTotals = AccountTotals::new();

/// Accounts of brokers that have ended, for the next broker. A message names its account as long as
/// it lives; an account that is never freed needs no reference count.
static UNUSED: Mutex<Vec<MemoryAccount>> = Mutex::new(Vec::new());

/// The number of thread counters ever assigned, and those whose threads have ended.
static GIVEN_OUT: AtomicUsize = AtomicUsize::new(0);
static RETURNED: LazyLock<Mutex<Vec<usize>>> = LazyLock::new(Mutex::default);

/// The thread has not asked for a counter yet.
const UNASSIGNED: usize = usize::MAX;
/// No counter was left, or the thread is ending.
const NONE: usize = usize::MAX - 1;

thread_local! {
    static COUNTER: Cell<usize> = const { Cell::new(UNASSIGNED) };
    static COUNTER_LEASE: CounterLease = CounterLease::take();
}

/// A thread's exclusive right to write to its counter in each account.
struct CounterLease(usize);

impl CounterLease {
    fn take() -> Self {
        let returned = RETURNED.lock().pop();
        Self(returned.unwrap_or_else(|| GIVEN_OUT.fetch_add(1, Relaxed)))
    }
}

impl Drop for CounterLease {
    fn drop(&mut self) {
        COUNTER.set(NONE);
        RETURNED.lock().push(self.0);
    }
}

impl Default for MemoryAccount {
    /// Returns the account for messages without a broker.
    fn default() -> Self {
        Self(&NO_BROKER)
    }
}

impl fmt::Debug for MemoryAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The octets change all the time, and equal accounts have to look equal.
        f.write_str("MemoryAccount")
    }
}

impl MemoryAccount {
    /// Charges `octets`.
    #[inline]
    pub fn charge(self, octets: u64) {
        self.add(octets as i64);
    }

    /// Takes back a charge of `octets`.
    #[inline]
    pub fn refund(self, octets: u64) {
        self.add((octets as i64).wrapping_neg());
    }

    #[inline]
    fn add(self, octets: i64) {
        match self.0.threads.get(COUNTER.get()) {
            Some(Padded(counter)) => self.add_on(counter, octets),
            None => self.add_without_counter(octets),
        }
    }

    /// Adds to the calling thread's counter. Only this thread writes to it: a load and a store
    /// suffice.
    #[inline]
    fn add_on(self, counter: &AtomicI64, octets: i64) {
        let sum = counter.load(Relaxed).wrapping_add(octets);
        if sum.unsigned_abs() < THREAD_SLACK {
            counter.store(sum, Relaxed);
        } else {
            counter.store(0, Relaxed);
            self.0.total.0.fetch_add(sum, Relaxed);
        }
    }

    #[cold]
    fn add_without_counter(self, octets: i64) {
        if COUNTER.get() == UNASSIGNED {
            // The thread's lease is gone while the thread ends.
            let index = COUNTER_LEASE.try_with(|lease| lease.0).unwrap_or(NONE);
            COUNTER.set(if index < THREADS { index } else { NONE });
            if let Some(Padded(counter)) = self.0.threads.get(index) {
                return self.add_on(counter, octets);
            }
        }
        self.0.total.0.fetch_add(octets, Relaxed);
    }

    /// Returns the octets charged now.
    pub fn used(self) -> u64 {
        let counters = self.0.threads.iter().take(GIVEN_OUT.load(Relaxed));
        let sum = counters.map(|counter| counter.0.load(Relaxed)).sum::<i64>();
        self.0.total.0.load(Relaxed).wrapping_add(sum).try_into().unwrap_or(0)
    }

    /// Returns about the octets charged now, by one load; see [`MemoryAccount::estimate_error`].
    pub fn estimate(self) -> u64 {
        self.0.total.0.load(Relaxed).try_into().unwrap_or(0)
    }

    /// Returns by how many octets an estimate may be wrong, up or down.
    pub fn estimate_error() -> u64 {
        THREAD_SLACK * GIVEN_OUT.load(Relaxed).min(THREADS) as u64
    }

    /// Returns the part of the charged octets that connections have grown: unfinished bodies,
    /// replies and deliveries that wait to be written, octets that were read and not parsed yet.
    pub fn used_by_connections(self) -> u64 {
        self.0.connections.0.load(Relaxed).try_into().unwrap_or(0)
    }

    /// Returns the part of the charged octets that names and arguments of queues, exchanges and
    /// bindings take.
    pub fn used_by_definitions(self) -> u64 {
        self.0.definitions.0.load(Relaxed).try_into().unwrap_or(0)
    }

    /// Returns the part of the charged octets that caches take.
    pub fn used_by_caches(self) -> u64 {
        self.0.caches.0.load(Relaxed).try_into().unwrap_or(0)
    }

    /// Returns the part of the charged octets that messages and their entries in queues take.
    pub fn used_by_messages(self) -> u64 {
        let others = self.used_by_connections() + self.used_by_definitions() + self.used_by_caches();
        self.used().saturating_sub(others)
    }

    /// Sets whether the memory alarm is on: less is then buffered for each connection.
    pub fn set_scarce(self, is_scarce: bool) {
        self.0.is_scarce.store(is_scarce, Relaxed);
    }

    /// Returns whether the memory alarm is on.
    pub fn is_scarce(self) -> bool {
        self.0.is_scarce.load(Relaxed)
    }
}

/// A broker's hold of an account, for as long as the broker runs.
#[derive(Debug)]
pub struct AccountLease(MemoryAccount);

impl AccountLease {
    /// Returns the account.
    pub fn account(&self) -> MemoryAccount {
        self.0
    }
}

impl Default for AccountLease {
    /// Takes an account to which nothing is charged.
    fn default() -> Self {
        let mut unused = UNUSED.lock();
        let free = unused.iter().position(|account| account.used() == 0);
        let account = free.map(|at| unused.swap_remove(at));
        drop(unused);
        let account = account.unwrap_or_else(|| MemoryAccount(Box::leak(Box::new(AccountTotals::new()))));
        account.set_scarce(false);
        Self(account)
    }
}

impl Drop for AccountLease {
    fn drop(&mut self) {
        UNUSED.lock().push(self.0);
    }
}

/// The memory that one connection has grown, part of its broker's account.
#[derive(Debug, Default)]
pub struct ConnectionMemory {
    account: MemoryAccount,
    used: AtomicU64,
    bodies: AtomicU64,
    transactions: AtomicU64,
}

impl ConnectionMemory {
    /// Creates the share of a new connection in `account`.
    pub fn new(account: MemoryAccount) -> Self {
        Self { account, ..Self::default() }
    }

    /// Returns the account of the connection's broker.
    pub fn account(&self) -> MemoryAccount {
        self.account
    }

    /// Returns the octets that the connection has grown, for all uses.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Returns the octets of unfinished bodies.
    pub fn bodies(&self) -> u64 {
        self.bodies.load(Relaxed)
    }

    /// Returns the octets of messages that wait for tx.commit.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Relaxed)
    }
}

/// The use that a connection makes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Octets that wait to be written, or were read and are not a whole frame yet.
    Buffer,
    /// An unfinished body.
    Body,
    /// Messages that wait for tx.commit. They are charged to the broker's account by themselves;
    /// here they are counted for the connection.
    Transaction,
}

/// Octets that one connection has grown; the charge ends when it is dropped.
#[derive(Debug)]
pub struct ConnectionCharge {
    connection: Arc<ConnectionMemory>,
    usage: Use,
    octets: u64,
}

impl ConnectionCharge {
    /// Creates a charge of 0 octets.
    pub fn new(connection: &Arc<ConnectionMemory>, usage: Use) -> Self {
        Self { connection: Arc::clone(connection), usage, octets: 0 }
    }

    /// Returns the octets charged.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Sets the charge to `octets`.
    #[inline]
    pub fn set(&mut self, octets: u64) {
        if octets != self.octets {
            self.change(octets);
        }
    }

    #[inline(never)]
    fn change(&mut self, octets: u64) {
        let difference = octets.wrapping_sub(self.octets);
        self.octets = octets;
        let ConnectionMemory { account, used, bodies, transactions } = &*self.connection;
        used.fetch_add(difference, Relaxed);
        match self.usage {
            Use::Buffer => {}
            Use::Body => drop(bodies.fetch_add(difference, Relaxed)),
            Use::Transaction => drop(transactions.fetch_add(difference, Relaxed)),
        }
        if self.usage != Use::Transaction {
            account.0.connections.0.fetch_add(difference as i64, Relaxed);
            account.add(difference as i64);
        }
    }

    /// Adds `octets` to the charge.
    pub fn grow(&mut self, octets: u64) {
        self.set(self.octets.saturating_add(octets));
    }
}

impl Drop for ConnectionCharge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The purpose of a [`Charge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A queue's entries for its messages, without the messages.
    Entries,
    /// Names and arguments of definitions.
    Definitions,
    /// Copies of what can be found again, kept to be found sooner.
    Caches,
}

/// Octets charged to an account; the charge ends when it is dropped.
#[derive(Debug)]
pub struct Charge {
    account: MemoryAccount,
    purpose: Purpose,
    octets: u64,
}

impl Charge {
    /// Creates a charge of 0 octets.
    pub fn new(account: MemoryAccount, purpose: Purpose) -> Self {
        Self { account, purpose, octets: 0 }
    }

    /// Returns the octets charged.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Returns the account.
    pub fn account(&self) -> MemoryAccount {
        self.account
    }

    /// Sets the charge to `octets`.
    #[inline]
    pub fn set(&mut self, octets: u64) {
        if octets != self.octets {
            self.change(octets);
        }
    }

    fn change(&mut self, octets: u64) {
        let difference = (octets as i64).wrapping_sub(self.octets as i64);
        self.octets = octets;
        self.account.add(difference);
        match self.purpose {
            Purpose::Entries => {}
            Purpose::Definitions => drop(self.account.0.definitions.0.fetch_add(difference, Relaxed)),
            Purpose::Caches => drop(self.account.0.caches.0.fetch_add(difference, Relaxed)),
        }
    }

    /// Adds `octets` to the charge.
    pub fn grow(&mut self, octets: u64) {
        self.set(self.octets.saturating_add(octets));
    }

    /// Subtracts `octets` from the charge.
    pub fn shrink(&mut self, octets: u64) {
        self.set(self.octets.saturating_sub(octets));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_charge_and_refund_adds_up() {
        let lease = AccountLease::default();
        let account = lease.account();
        // More threads than counters, one after the other and side by side, and refunds by other
        // threads than the one that charged.
        for _ in 0..2 {
            std::thread::scope(|scope| {
                for thread in 0..100_u64 {
                    scope.spawn(move || {
                        for octets in 0..1_000 {
                            account.charge(octets * thread);
                        }
                    });
                }
            });
        }
        assert_eq!(account.used(), 2 * 499_500 * 4_950);
        let distance = account.used().abs_diff(account.estimate());
        assert!(distance <= MemoryAccount::estimate_error(), "{distance}");
        account.refund(2 * 499_500 * 4_950);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn a_charge_is_taken_back_when_it_is_dropped() {
        let lease = AccountLease::default();
        let account = lease.account();
        let connection = Arc::new(ConnectionMemory::new(account));
        let mut charge = ConnectionCharge::new(&connection, Use::Body);
        charge.grow(100_000);
        charge.set(99_999);
        let mut held = ConnectionCharge::new(&connection, Use::Transaction);
        held.set(3);
        let mut other = Charge::new(account, Purpose::Definitions);
        other.set(7);
        assert_eq!((account.used(), account.used_by_connections()), (100_006, 99_999));
        assert_eq!((connection.used(), connection.bodies(), connection.transactions()), (100_002, 99_999, 3));
        drop(held);
        assert_eq!(account.used_by_definitions(), 7);
        drop(charge);
        assert_eq!((account.used(), account.used_by_connections()), (7, 0));
        drop(other);
        assert_eq!((account.used(), account.used_by_definitions()), (0, 0));
    }

    #[test]
    fn an_account_that_is_still_charged_is_not_used_again() {
        let (first, second) = (AccountLease::default(), AccountLease::default());
        let charged = first.account();
        charged.charge(5);
        drop(first);
        let third = AccountLease::default();
        assert!(!std::ptr::eq(third.account().0, charged.0) && !std::ptr::eq(second.account().0, third.account().0));
        charged.refund(5);
    }
}

//! File descriptors of the process: the limit, and those that are kept back, so that strangers
//! never take the last one that the store needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsFd, AsRawFd};

/// Descriptors that no connection gets: for the store's segments, and for what else the process
/// opens.
const RESERVE: u64 = 64;
/// The reserve never takes more than this part of a low limit.
const RESERVE_PART: u64 = 4;

/// Outcome of raising the limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The soft limit before; `None`: no limit.
    pub before: Option<u64>,
    /// The soft limit now; `None`: no limit.
    pub now: Option<u64>,
}

/// Raises the soft limit of open files to the hard one, which is what a process may do by itself.
pub fn raise() -> Raised {
    let limit = getrlimit(Resource::Nofile);
    let Rlimit { current, maximum } = limit;
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return Raised { before: current, now: maximum };
    }
    Raised { before: current, now: current }
}

/// Returns whether `socket` has one of the last descriptors, which are kept back. The system gives
/// the lowest free number, so a high one shows how many are taken, by whomever.
pub fn is_reserved(socket: &impl AsFd) -> bool {
    let number = u64::try_from(socket.as_fd().as_raw_fd()).unwrap_or(0);
    getrlimit(Resource::Nofile).current.is_some_and(|limit| number >= limit - reserve(limit))
}

/// Returns the number of descriptors below those that are kept back; `None`: no limit.
pub fn for_connections() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current?;
    usize::try_from(limit - reserve(limit)).ok()
}

fn reserve(limit: u64) -> u64 {
    RESERVE.min(limit / RESERVE_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_keeps_most_descriptors_for_connections() {
        assert_eq!((reserve(0), reserve(40), reserve(1024), reserve(1 << 20)), (0, 10, 64, 64));
    }

    #[test]
    fn a_low_number_is_nobodys_reserve() {
        assert!(!is_reserved(&std::io::stdin()));
    }
}

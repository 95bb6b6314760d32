//! The memory that this process may use: the machine's, or its control group's limit.

use std::fs;

/// Octets assumed where the system does not tell.
const UNKNOWN: u64 = 2 << 30;

/// Returns the octets of memory that this process may use.
pub(super) fn total() -> u64 {
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.into_iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine(&text));
    // A group without a limit has a number larger than any machine, or the word "max".
    limits.chain(machine).min().unwrap_or(UNKNOWN)
}

/// Returns `MemTotal` of /proc/meminfo, in octets.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns a percentage of [`total`], in octets.
pub(super) fn percent(percent: u64) -> u64 {
    total() / 100 * percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_system_says() {
        assert_eq!(machine("MemTotal:       24683520 kB\nMemFree: 1 kB\n"), Some(24_683_520 * 1024));
        assert_eq!(machine("MemFree: 1 kB\n"), None);
        assert!(total() > 1 << 20);
        assert!(percent(50) <= total());
    }
}

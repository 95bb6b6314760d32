//! CPU time and resident memory of the broker's process, from /proc.

use std::fs;

/// Ticks a second of /proc/PID/stat: fixed in Linux's interface, whatever the kernel's own are.
const TICKS: f64 = 100.0;

/// A process that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Process(u32);

/// CPU time and memory of a process.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Usage {
    /// CPU time of all its threads, user and system, in seconds.
    pub cpu: f64,
    /// Resident memory in KiB.
    pub resident: u64,
}

impl Process {
    /// Opens the process with this id.
    ///
    /// # Errors
    /// There is none, or this system has no /proc.
    pub fn new(pid: u32) -> Result<Process, String> {
        let process = Process(pid);
        match process.usage() {
            Some(_) => Ok(process),
            None => Err(format!("--pid {pid}: cannot read /proc/{pid}/stat")),
        }
    }

    /// Returns the use up to now; `None` if the process has ended.
    pub fn usage(self) -> Option<Usage> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        Some(Usage { cpu: cpu(&stat)?, resident: resident(&status)? })
    }
}

/// utime and stime: the 12th and 13th field behind the name, which may hold anything.
fn cpu(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0";
        assert_eq!(cpu(stat), Some(3.0));
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234));
        assert_eq!((cpu("42 (x) S 1"), resident("Name: x")), (None, None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn watches_this_process() {
        let usage = Process::new(std::process::id()).unwrap().usage().unwrap();
        assert!(usage.resident > 100 && usage.cpu >= 0.0);
        assert!(Process::new(u32::MAX).is_err());
    }
}

//! The real program as a child of a test, with a directory of its own: started, watched through the
//! lines of its log, ended.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The longest that a line or an end is awaited.
const LONG: Duration = Duration::from_secs(30);

/// A directory that is removed with the value; kept after a panic with `LEVERET_TEST_KEEP` in the
/// environment.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("leveret-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("LEVERET_TEST_KEEP").is_some() {
            return eprintln!("kept: {}", self.0.display());
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program with its working directory there, and with none of our own environment's settings.
pub fn leveret(directory: &Directory, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.current_dir(directory.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LEVERET_") {
            command.env_remove(name);
        }
    }
    command
}

/// A program that runs. It is killed with the value.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    /// Every line so far.
    pub log: Vec<String>,
}

impl Process {
    pub fn start(mut command: Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Process { child, lines, log: Vec::new() }
    }

    /// On any free port of 127.0.0.1, ready.
    pub fn serve(directory: &Directory, arguments: &[&str]) -> (Process, SocketAddr) {
        let arguments = [&["--bind", "127.0.0.1:0"], arguments].concat();
        let mut process = Process::start(leveret(directory, &arguments));
        let address = process.address();
        process.line("Server startup complete");
        (process, address)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Awaits the next line that has this in it.
    pub fn line(&mut self, part: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(why) => panic!("no line with `{part}` ({why}) in\n{}", self.log.join("\n")),
            }
        }
    }

    /// Where it listens, from the next line that says so.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.line("started TCP listener");
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line}"))
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.id())]).status();
        assert!(sent.expect("a shell").success());
    }

    /// Awaits its end.
    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().expect("it can be waited for"),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.log.join("\n")),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

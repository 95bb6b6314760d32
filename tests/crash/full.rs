//! The program on a disk that is small and fills up: a tmpfs in a mount namespace of its own, for
//! which one need not be root where user namespaces are allowed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Client, Event, LARGE, PATIENCE, Rng, Shared};
use crate::process::{Directory, Process, leveret};
use crate::{check, load, new_ledger, right};

/// Octets of the disk.
const SIZE: u64 = 64 << 20;

/// A small disk. It is there as long as its holder, who ends with the value, or with this process.
struct Small {
    directory: Directory,
    holder: Child,
    enter: Vec<String>,
}

impl Small {
    /// `None` where it cannot be had, which is said.
    fn new() -> Option<Small> {
        let directory = Directory::new();
        let path = directory.path().display();
        let script = format!("mount -t tmpfs -o size={SIZE} none {path} && echo mounted && exec cat");
        for (namespaces, enter) in
            [(&["-m"][..], &["-m"][..]), (&["-U", "-r", "-m"], &["-U", "-m", "--preserve-credentials"])]
        {
            let mut command = Command::new("unshare");
            command.args(namespaces).args(["sh", "-c", &script]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut holder) = command.spawn() else { continue };
            let mut line = String::new();
            let heard = BufReader::new(holder.stdout.take()?).read_line(&mut line);
            if heard.is_ok() && line == "mounted\n" {
                let mut all = vec!["-t".to_owned(), holder.id().to_string()];
                all.extend(enter.iter().map(|text| (*text).to_owned()));
                return Some(Small { directory, holder, enter: all });
            }
            let _ = (holder.kill(), holder.wait());
        }
        println!("skipped: no tmpfs can be mounted here, neither by root nor in a user namespace (unshare -Urm)");
        None
    }

    /// The disk as this process sees it.
    fn path(&self) -> PathBuf {
        let inside = self.directory.path().strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(self.path()).expect("the disk is there");
        space.f_bavail * space.f_frsize
    }

    fn start(&self) -> Process {
        let program = leveret(&self.directory, &[]);
        let mut command = Command::new("nsenter");
        let data = self.directory.path().join("data");
        command.args(&self.enter).arg("--").arg(program.get_program());
        command.args(["--bind", "127.0.0.1:0", "--config"]).arg(self.directory.path().join("config.toml"));
        command.arg("--data-dir").arg(data).stdin(Stdio::null()).stdout(Stdio::null());
        for (name, _) in program.get_envs() {
            command.env_remove(name);
        }
        Process::start(command)
    }

    fn serve(&self) -> (Process, SocketAddr) {
        let mut process = self.start();
        let address = process.address();
        process.line("Server startup complete");
        (process, address)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = (self.holder.kill(), self.holder.wait());
    }
}

/// Publishes until it is told to wait.
fn fill(client: &mut Client, small: &Small) {
    let since = Instant::now();
    while client.blocked.is_none() {
        assert!(since.elapsed() < PATIENCE, "it is never blocked, {} octets are free", small.free());
        client.publish("routing-key=q0", &["q0"], true).expect("the broker is there");
        while client.blocked.is_none() && client.unconfirmed() > 4 {
            let (left, free) = (client.unconfirmed(), small.free());
            assert!(since.elapsed() < PATIENCE, "neither confirmed nor blocked: {left}, {free} octets are free");
            let event = client.event_until(Instant::now() + PATIENCE).expect("the broker is there");
            assert!(event.is_none(), "{event:?}");
        }
    }
    assert_eq!(client.blocked.as_deref(), Some("\"low on disk\""));
}

/// Reads until it may publish again, and all is confirmed.
fn await_space(client: &mut Client) {
    let deadline = Instant::now() + PATIENCE;
    while client.blocked.is_some() || client.unconfirmed() > 0 {
        let left = client.unconfirmed();
        assert!(Instant::now() < deadline, "blocked: {:?}, unconfirmed: {left}", client.blocked);
        let event = client.event_until(deadline).expect("the broker is there");
        assert!(event.is_none(), "{event:?}");
    }
}

/// Takes so many messages for good.
fn take(client: &mut Client, count: u64) {
    client.queues.insert("c".to_owned(), "q0");
    client.call("basic.qos", "prefetch-count=20").unwrap();
    client.call("basic.consume", "queue=q0 consumer-tag=c").unwrap();
    for _ in 0..count {
        match client.event().unwrap() {
            Event::Message { tag, found } => {
                client.gives_up("q0", found.id, "ack sent");
                client.send("basic.ack", &format!("delivery-tag={tag}")).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    client.recover().unwrap();
    client.call("basic.cancel", "consumer-tag=c").unwrap();
}

fn count(client: &mut Client) -> u64 {
    crate::client::number(&client.call("queue.declare", "queue=q0 passive").unwrap(), "message-count")
}

fn kill(mut process: Process) {
    process.signal("KILL");
    process.end();
}

/// Starts it; what it has is right.
fn restart(small: &Small, history: &Shared, number: u32) -> (Process, SocketAddr) {
    let (process, address) = small.serve();
    check::check(address, number, Rng(1), history).expect("the broker is there");
    right(history, &process, 1, u64::from(number));
    let mut client = Client::open(address, number + 2, Rng(0), history).unwrap();
    load::declare(&mut client).unwrap();
    (process, address)
}

#[test]
fn a_disk_that_fills_up_holds_publishers_before_it_is_full() {
    let Some(small) = Small::new() else { return };
    std::fs::write(small.path().join("config.toml"), "disk_free_limit = \"16MB\"\n").unwrap();
    let history = new_ledger();
    let (process, address) = restart(&small, &history, 0);
    let mut publisher = Client::confirming(address, LARGE, Rng(1), &history).unwrap();
    fill(&mut publisher, &small);
    assert!(small.free() > 0, "it was blocked too late");
    kill(process);

    let (process, address) = restart(&small, &history, 10);
    let mut publisher = Client::confirming(address, LARGE + 1, Rng(1), &history).unwrap();
    fill(&mut publisher, &small);
    let mut consumer = Client::confirming(address, 20, Rng(1), &history).unwrap();
    let there = count(&mut consumer);
    take(&mut consumer, there);
    await_space(&mut publisher);
    for _ in 0..20 {
        publisher.publish("routing-key=q0", &["q0"], true).unwrap();
    }
    publisher.await_confirms(0).unwrap();
    assert_eq!(publisher.blocked, None);
    kill(process);

    let (process, _) = restart(&small, &history, 30);
    kill(process);
}

/// A broker that has no limit to keep, on a disk that something else has nearly filled, and a
/// publisher whose last message finds no space.
fn without_space(small: &Small, ballast: &Path, history: &Shared) -> (Process, SocketAddr, Client) {
    std::fs::write(small.path().join("config.toml"), "disk_free_limit = 0\n").unwrap();
    std::fs::write(ballast, vec![1; 40 << 20]).unwrap();
    let (mut process, address) = restart(small, history, 0);
    let mut publisher = Client::confirming(address, LARGE, Rng(1), history).unwrap();
    // A little at a time: who waits for a confirm publishes nothing, and is told nothing.
    let deadline = Instant::now() + PATIENCE;
    while publisher.unconfirmed() == 0 {
        assert!(Instant::now() < deadline, "it is never full, {} octets are free", small.free());
        publisher.publish("routing-key=q0", &["q0"], true).unwrap();
        let patience = Instant::now() + Duration::from_millis(500);
        while publisher.unconfirmed() > 0 && Instant::now() < patience {
            publisher.event_until(patience).unwrap();
        }
    }
    process.line("disk alarm: publishers are held back");
    (process, address, publisher)
}

#[test]
fn a_disk_that_is_full_confirms_nothing_until_acknowledgements_make_room() {
    let Some(small) = Small::new() else { return };
    let (ballast, history) = (small.path().join("ballast"), new_ledger());
    let (process, address, mut publisher) = without_space(&small, &ballast, &history);
    // Who consumes is served, and makes room: nobody else does. Who publishes is told.
    let mut consumer = Client::confirming(address, 20, Rng(1), &history).unwrap();
    take(&mut consumer, 5);
    fill(&mut publisher, &small);
    assert!(publisher.unconfirmed() > 0, "confirmed, though the disk is full");
    let there = count(&mut consumer);
    take(&mut consumer, there);
    await_space(&mut publisher);
    for _ in 0..20 {
        publisher.publish("routing-key=q0", &["q0"], true).unwrap();
    }
    publisher.await_confirms(0).unwrap();
    kill(process);
    let (process, _) = restart(&small, &history, 30);
    kill(process);
}

#[test]
fn killed_on_a_full_disk_it_loses_nothing() {
    let Some(small) = Small::new() else { return };
    let (ballast, history) = (small.path().join("ballast"), new_ledger());
    let (process, _, _publisher) = without_space(&small, &ballast, &history);
    kill(process);
    let (process, address) = small.serve();
    let mut consumer = Client::confirming(address, 20, Rng(1), &history).unwrap();
    let there = count(&mut consumer);
    take(&mut consumer, there / 2);
    kill(process);
    std::fs::remove_file(&ballast).unwrap();
    let (process, _) = restart(&small, &history, 30);
    kill(process);
}

//! The process as its operator meets it when something around it is short or slow: nobody reads the
//! log, peers flood it, signals come. Each test has a process of its own.

use conformance::peer;
#[expect(dead_code, reason = "one set of helpers for all tests, of which each needs a part")]
mod process;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use peer::{Heard, Peer};
use process::{Directory, Process, leveret};
use running::{call, client, expect};

/// A program whose standard error was read up to its start, and is not read any more.
struct Unread {
    child: Child,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Unread {
    fn start(directory: &Directory) -> (Unread, SocketAddr) {
        let mut command = leveret(directory, &["--bind", "127.0.0.1:0"]);
        let mut process = Unread { child: command.stderr(Stdio::piped()).spawn().unwrap(), stderr: None };
        let stderr = process.stderr.insert(BufReader::new(process.child.stderr.take().unwrap()));
        let mut address = None;
        loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some(rest) = line.split("address=").nth(1) {
                address = rest.split_whitespace().next().and_then(|address| address.parse().ok());
            }
            if line.contains("Server startup complete") {
                return (process, address.unwrap());
            }
        }
    }

    fn signal(&self, signal: &str) {
        let sent =
            std::process::Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A login that fails, of a client that does not understand a refusal: the broker says nothing.
fn refused_login(address: SocketAddr, user: &[u8]) -> Peer {
    let mut peer = Peer::connect(address).unwrap();
    peer.send_octets(peer::HEADER).unwrap();
    expect(&peer.recv(), "connection.start");
    let mut arguments = vec![0, 10, 0, 11, 0, 0, 0, 0];
    arguments.extend(b"\x05PLAIN");
    arguments.extend(u32::try_from(user.len() + 3).unwrap().to_be_bytes());
    arguments.push(0);
    arguments.extend(user);
    arguments.extend(b"\0x\x05en_US");
    peer.send_octets(&peer::frame(1, 0, &arguments)).unwrap();
    peer
}

#[test]
fn a_log_that_nobody_reads_stops_nobody_and_sigterm_is_obeyed() {
    let directory = Directory::new();
    let (mut process, address) = Unread::start(&directory);
    let mut old = client(address, "");
    // Two lines each, of which a pipe holds a few hundred.
    for _ in 0..600 {
        let mut peer = client(address, "");
        expect(&peer.call(0, "connection.close", "reply-code=200").unwrap(), "connection.close-ok");
    }
    call(&mut old, "queue.declare", "queue=q", "queue.declare-ok");
    process.signal("TERM");
    assert_eq!(process.end(), Some(0));
}

#[test]
fn names_of_strangers_are_cut_and_their_lines_are_counted() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let before = process.log.len();
    // A name with everything that drives a terminal, then a flood.
    refused_login(address, "\u{1b}[2J\u{7}\u{202e}x\ny".as_bytes());
    let line = process.line("invalid credentials");
    assert!(line.contains("\\u{1b}[2J\\u{7}\\u{202e}x\\ny"), "{line}");
    let _waiting: Vec<_> = (0..300).map(|_| refused_login(address, &[b'u'; 7_000])).collect();
    process.line("(7000 octets)");
    client(address, "client-properties={connection_name: \"last\"}");
    process.line("client=\"last\"");
    process.signal("TERM");
    assert_eq!(process.end().code(), Some(0));
    let lines = &process.log[before..];
    assert!(lines.iter().all(|line| line.len() < 500), "{lines:#?}");
    let refused = lines.iter().filter(|line| line.contains("invalid credentials")).count();
    assert!((50..200).contains(&refused), "{refused}");
}

#[test]
fn what_a_channel_did_wrong_is_said_so_often_and_then_counted() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let mut peer = client(address, "");
    for _ in 0..500 {
        call(&mut peer, "queue.declare", "queue=none passive", "channel.close");
        peer.send(1, "channel.close-ok", "").unwrap();
        call(&mut peer, "channel.open", "", "channel.open-ok");
    }
    peer.call(0, "connection.close", "reply-code=200").unwrap();
    process.line("connection closed");
    let closed = process.log.iter().filter(|line| line.contains("channel closed")).count();
    assert!((100..400).contains(&closed), "{closed}");
}

#[test]
fn sighup_is_said_and_ends_nothing() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let mut peer = client(address, "");
    for _ in 0..2 {
        process.signal("HUP");
        process.line("SIGHUP");
        call(&mut peer, "queue.declare", "queue=q", "queue.declare-ok");
    }
    process.signal("TERM");
    assert_eq!(process.end().code(), Some(0));
}

/// Clients that send heartbeats while the process is stopped for `seconds`: how many of them it
/// still serves afterwards.
fn kept_through_a_stop(heartbeat: u64, seconds: u64) -> usize {
    const CLIENTS: usize = 20;
    const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xce];
    let directory = Directory::new();
    let (process, address) = Process::serve(&directory, &[]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client(address, &format!("heartbeat={heartbeat}"))).collect();
    process.signal("STOP");
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        clients.iter_mut().for_each(|client| client.send_octets(&HEARTBEAT).expect("the socket is open"));
        std::thread::sleep(Duration::from_millis(300));
    }
    process.signal("CONT");
    let is_served = |client: &mut Peer| {
        let declare = client.send(1, "queue.declare", "");
        declare.is_ok() && {
            let heard = std::iter::repeat_with(|| client.recv()).find(|heard| *heard != Heard::Heartbeat(0));
            heard.is_some_and(|heard| heard.method() == Some("queue.declare-ok"))
        }
    };
    clients.iter_mut().map(is_served).filter(|is_served| *is_served).count()
}

#[test]
fn a_process_that_is_stopped_for_a_while_loses_no_client_that_sends_heartbeats() {
    assert_eq!(kept_through_a_stop(1, 3), 20);
}

/// A process that may have few descriptors, all given to sockets that never say anything.
#[test]
fn sockets_that_say_nothing_keep_nobody_out_and_leave_descriptors_to_the_store() {
    const DESCRIPTORS: usize = 256;
    let directory = Directory::new();
    let program = leveret(&directory, &["--bind", "127.0.0.1:0"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\"")]).arg(program.get_program());
    command.args(program.get_args()).current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Process::start(command);
    let address = process.address();
    process.line("Server startup complete");
    let silent: Vec<_> = (0..2 * DESCRIPTORS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let mut peer = client(address, "");
    call(&mut peer, "queue.declare", "queue=q durable", "queue.declare-ok");
    call(&mut peer, "confirm.select", "", "confirm.select-ok");
    // More than one segment on the smallest disk; it needs descriptors.
    for _ in 0..70 {
        peer.publish(
            1,
            &peer::text::fields("routing-key=q").unwrap(),
            &peer::text::fields("delivery-mode=2").unwrap(),
            &[7; 1 << 20],
        )
        .unwrap();
        expect(&peer.recv(), "basic.ack");
    }
    let open = silent.iter().filter(|socket| !is_closed(socket)).count();
    assert!(open <= 2 * DESCRIPTORS - DESCRIPTORS / 2, "{open} of {} are open", silent.len());
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count();
    assert!(descriptors < DESCRIPTORS / 2, "{descriptors} are open");
}

/// Returns true if the other side has closed a socket on which nothing was sent.
fn is_closed(mut socket: &std::net::TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    !matches!(socket.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

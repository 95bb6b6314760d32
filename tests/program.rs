//! The program as its user meets it: arguments, configuration, log, signals, exit codes, and
//! clients that are killed. Each test has a directory and a port of its own and waits for lines of
//! the log.

use conformance::peer;
mod process;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use peer::{Heard, Peer};
use process::{Directory, Process, leveret};
use running::{call, client, content, expect, publish, ready};

const NAMED: &str =
    "client-properties={connection_name: \"tester\", capabilities: {authentication_failure_close: true}}";

/// Runs to the end; exit code and log.
fn run(command: Command) -> (Option<i32>, String) {
    let mut process = Process::start(command);
    let status = process.end();
    (status.code(), process.log.join("\n"))
}

fn refused(directory: &Directory, arguments: &[&str], code: i32, text: &str) {
    let (status, log) = run(leveret(directory, arguments));
    assert_eq!((status, log.as_str()), (Some(code), text), "{arguments:?}");
}

fn free_port_but_taken() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn a_taken_port_is_named() {
    let (_listener, address) = free_port_but_taken();
    let directory = Directory::new();
    let (code, log) = run(leveret(&directory, &["serve", "--bind", &address]));
    let last = log.lines().last().unwrap_or_default();
    let expected =
        format!("leveret: cannot listen on {address}: the port is taken by another program: stop it, or change `bind`");
    assert_eq!((code, last), (Some(1), expected.as_str()));
}

#[test]
fn a_bad_configuration_is_refused_with_its_place() {
    let directory = Directory::new();
    directory.write("config.toml", "log = \"info\"\nheartbeat = 70000\n");
    let expected = "leveret: config.toml:2:13: heartbeat: found integer `70000`, expected a whole number from 0 to 65535 \
        (seconds, 0 for no heartbeats)";
    refused(&directory, &[], 2, expected);
    refused(&directory, &["serve"], 2, expected);

    directory.write("mine.toml", "\n  hartbeat = 7\n");
    let (code, log) = run(leveret(&directory, &["--config", "mine.toml"]));
    let expected =
        "leveret: mine.toml:2:3: hartbeat: unknown key, did you mean heartbeat? Expected one of anonymous_user, ";
    assert!(code == Some(2) && log.starts_with(expected), "{code:?} {log}");

    directory.write("mine.toml", "bind = [\"localhost\"]");
    let expected = "leveret: mine.toml:1:9: bind: found string \"localhost\", expected an address such as \
        \"127.0.0.1:5672\" or \"[::1]:5672\"";
    refused(&directory, &["--config", "mine.toml"], 2, expected);

    directory.write("mine.toml", "heartbeat = \n");
    let (code, log) = run(leveret(&directory, &["--config", "mine.toml"]));
    assert!(code == Some(2) && log.starts_with("leveret: mine.toml:1:") && log.lines().count() == 1, "{log}");

    let (code, log) = run(leveret(&directory, &["--config", "none.toml"]));
    assert!(code == Some(2) && log.starts_with("leveret: none.toml: cannot be read: "), "{log}");
    assert!(!directory.path().join("leveret-data").exists());
}

#[test]
fn a_bad_argument_or_variable_is_refused() {
    let directory = Directory::new();
    for arguments in [&["--bind", "here"][..], &["serve", "--port"], &["sing"], &["--log", "a=b=c"]] {
        let (code, log) = run(leveret(&directory, arguments));
        assert!(code == Some(2) && log.contains(arguments.last().unwrap()), "{arguments:?}: {code:?} {log}");
    }
    let mut command = leveret(&directory, &[]);
    command.env("LEVERET_CHANNEL_MAX", "many");
    let expected = "leveret: environment variable LEVERET_CHANNEL_MAX: channel_max: found string \"many\", expected a whole \
        number from 1 to 65535 (channels of a connection)";
    assert_eq!(run(command), (Some(2), expected.to_owned()));
}

/// The environment is everybody's, and need not be text.
#[test]
#[cfg(unix)]
fn variables_that_are_no_text_matter_if_they_are_ours() {
    use std::os::unix::ffi::OsStrExt;
    let no_text = std::ffi::OsStr::from_bytes(b"\xff");
    let directory = Directory::new();
    let mut command = leveret(&directory, &["--bind", "127.0.0.1:0"]);
    command.env("OTHER", no_text).env(no_text, "x");
    Process::start(command).line("Server startup complete");
    let mut command = leveret(&directory, &[]);
    command.env("LEVERET_DATA_DIR", no_text);
    let expected = "leveret: environment variable LEVERET_DATA_DIR: found octets that are not UTF-8, expected text";
    assert_eq!(run(command), (Some(2), expected.to_owned()));
    let mut command = leveret(&directory, &[]);
    command.env("LEVERET_DEFAULT_PASS", std::ffi::OsStr::from_bytes(b"secret\xff"));
    let (code, log) = run(command);
    assert!(code == Some(2) && log.contains("LEVERET_DEFAULT_PASS") && !log.contains("secret"), "{code:?} {log}");
}

#[test]
fn anonymous_logins_become_the_configured_user() {
    let directory = Directory::new();
    directory.write("config.toml", "anonymous_user = \"hare\"\n[[users]]\nname = \"hare\"\npassword = \"fast\"\n");
    let mut process = Process::start(leveret(&directory, &["--bind", "127.0.0.1:0"]));
    let mut peer = Peer::connect(process.address()).unwrap();
    peer.send_octets(peer::HEADER).unwrap();
    let start = peer.recv().to_string();
    assert!(start.contains("mechanisms=\"AMQPLAIN ANONYMOUS PLAIN\""), "{start}");
    let answer = peer.call(0, "connection.start-ok", "mechanism=ANONYMOUS response=\"\" locale=en_US").unwrap();
    expect(&answer, "connection.tune");
    peer.send(0, "connection.tune-ok", "channel-max=10 frame-max=4096 heartbeat=0").unwrap();
    expect(&peer.call(0, "connection.open", "virtual-host=/").unwrap(), "connection.open-ok");
    let line = process.line("connection opened");
    assert!(line.contains("user=\"hare\""), "{line}");
}

/// Returns the heartbeat that connection.tune offers.
fn offered_heartbeat(address: SocketAddr) -> u64 {
    let mut peer = Peer::connect(address).unwrap();
    peer.send_octets(peer::HEADER).unwrap();
    expect(&peer.recv(), "connection.start");
    let plain = r#"mechanism=PLAIN response="\x00guest\x00guest" locale=en_US"#;
    running::number(&peer.call(0, "connection.start-ok", plain).unwrap(), "heartbeat")
}

#[test]
fn variables_win_over_the_file_and_arguments_over_both() {
    let (_listener, taken) = free_port_but_taken();
    let directory = Directory::new();
    let file = format!("bind = [\"{taken}\"]\nheartbeat = 5\nchannel_max = 6\ndata_dir = \"of-file\"\n");
    directory.write("config.toml", &file);
    directory.write("other.toml", &file.replace("heartbeat = 5", "heartbeat = 9"));

    let mut command = leveret(&directory, &[]);
    command.env("LEVERET_BIND", "127.0.0.1:0").env("LEVERET_DATA_DIR", "of-variable").env("LEVERET_HEARTBEAT", "7");
    let mut process = Process::start(command);
    assert_eq!(offered_heartbeat(process.address()), 7);
    assert!(directory.path().join("of-variable").is_dir());
    drop(process);

    let mut command = leveret(&directory, &["--bind", "127.0.0.1:0", "--data-dir", "of-argument"]);
    command.env("LEVERET_BIND", &taken).env("LEVERET_DATA_DIR", "of-variable-2").env("LEVERET_CONFIG", "other.toml");
    let mut process = Process::start(command);
    assert_eq!(offered_heartbeat(process.address()), 9);
    assert!(directory.path().join("of-argument").is_dir());
    drop(process);

    let arguments = ["serve", "--config", "config.toml", "--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0"];
    let mut command = leveret(&directory, &arguments);
    command.env("LEVERET_CONFIG", "other.toml");
    let mut process = Process::start(command);
    let (one, other) = (process.address(), process.address());
    assert_ne!(one, other);
    assert_eq!((offered_heartbeat(one), offered_heartbeat(other)), (5, 5));
    assert!(directory.path().join("of-file").is_dir());
    assert!(!directory.path().join("of-variable-2").exists());
}

#[test]
fn users_and_hosts_come_from_variables_too() {
    let directory = Directory::new();
    let mut command = leveret(&directory, &["--bind", "127.0.0.1:0"]);
    command.env("LEVERET_DEFAULT_USER", "hare").env("LEVERET_DEFAULT_PASS", "fast").env("LEVERET_VHOSTS", "/,field");
    let mut process = Process::start(command);
    let mut hare = client(process.address(), "user=hare password=fast vhost=field");
    call(&mut hare, "queue.declare", "", "queue.declare-ok");
    let line = process.line("connection opened");
    assert!(line.contains("user=\"hare\"") && line.contains("vhost=field"), "{line}");
}

#[test]
fn the_log_tells_what_it_is_told_to() {
    let directory = Directory::new();
    let filter = ["--bind", "127.0.0.1:0", "--log", "leveret::server::listener=info"];
    let mut process = Process::start(leveret(&directory, &filter));
    let mut peer = client(process.address(), "");
    peer.call(0, "connection.close", "reply-code=200").unwrap();
    process.signal("TERM");
    assert_eq!(process.end().code(), Some(0));
    assert_eq!(process.log.len(), 1, "{:?}", process.log);

    let mut command = leveret(&directory, &["--bind", "127.0.0.1:0"]);
    command.env("LEVERET_LOG", "leveret=trace");
    let mut process = Process::start(command);
    let mut peer = client(process.address(), "");
    peer.call(0, "connection.close", "reply-code=200").unwrap();
    process.line("DEBUG");
}

#[test]
fn one_data_directory_has_one_broker() {
    let directory = Directory::new();
    let (first, _) = Process::serve(&directory, &["--data-dir", "data"]);
    let (code, log) = run(leveret(&directory, &["--bind", "127.0.0.1:0", "--data-dir", "data"]));
    let expected = format!(
        "leveret: data directory data is used by another broker (pid {}): stop it, or change `data_dir`",
        first.id()
    );
    assert_eq!((code, log.lines().last()), (Some(1), Some(&*expected)));
    // Killed, not ended: nothing is left that keeps the next one out.
    drop(first);
    Process::serve(&directory, &["--data-dir", "data"]);
}

#[test]
fn a_message_of_exactly_the_largest_size_comes_back_whole() {
    let directory = Directory::new();
    directory.write("config.toml", "max_message_size = 10000\n");
    let mut process = Process::start(leveret(&directory, &["--bind", "127.0.0.1:0"]));
    let mut peer = client(process.address(), "frame-max=4096");
    call(&mut peer, "queue.declare", "queue=q", "queue.declare-ok");
    let body: Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
    publish(&mut peer, "q", &body);
    peer.send(1, "basic.get", "queue=q no-ack").unwrap();
    assert_eq!(content(&mut peer).1, body);
    publish(&mut peer, "q", &[0; 10_001]);
    let text = "1 channel.close reply-code=406 reply-text=\"PRECONDITION_FAILED - message size 10001 is larger than \
        configured max size 10000\" class-id=60 method-id=40";
    assert_eq!(peer.recv().to_string(), text);
}

#[test]
fn an_impersonator_may_publish_with_another_name() {
    let directory = Directory::new();
    let user = |name: &str, impersonator: bool| {
        format!("[[users]]\nname = \"{name}\"\npassword = \"p\"\nimpersonator = {impersonator}\n")
    };
    directory.write("config.toml", &(user("relay", true) + &user("alice", false)));
    let mut process = Process::start(leveret(&directory, &["--bind", "127.0.0.1:0"]));
    let address = process.address();
    for (name, answer) in [("relay", "basic.ack"), ("alice", "channel.close")] {
        let mut peer = client(address, &format!("user={name} password=p"));
        call(&mut peer, "confirm.select", "", "confirm.select-ok");
        let properties = peer::text::fields("user-id=bob").unwrap();
        peer.publish(1, &peer::text::fields("routing-key=none").unwrap(), &properties, b"").unwrap();
        expect(&peer.recv(), answer);
    }
}

#[test]
fn what_has_no_effect_is_said_once_a_queue() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let mut peer = client(address, NAMED);
    process.line("connection opened");
    let before = process.log.len();
    let arguments = r#"arguments={x-max-length: int32 5, x-expires: int32 60000, x-mine: "1", x-queue-type: "quorum"}"#;
    for _ in 0..2 {
        call(&mut peer, "queue.declare", &format!("queue=q durable {arguments}"), "queue.declare-ok");
    }
    peer.call(0, "connection.close", "reply-code=200").unwrap();
    process.line("connection closed");
    let lines = &process.log[before..process.log.len() - 1];
    for (line, told) in
        lines.iter().zip(["queue_type=\"quorum\"", "argument=\"x-expires\"", "argument=\"x-max-length\""])
    {
        assert!(line.contains("WARN") && line.contains("queue=q") && line.contains(told), "{told}: {line}");
    }
    assert_eq!(lines.len(), 3, "{lines:#?}");
}

#[test]
fn who_only_looks_whether_the_port_is_open_leaves_no_line() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let before = process.log.len();
    let probe = Peer::connect(address).unwrap();
    let probed = probe.address().unwrap();
    drop(probe);
    drop(client(address, NAMED));
    process.line("connection closed");
    process.signal("TERM");
    process.end();
    assert!(!process.log[before..].iter().any(|line| line.contains(&probed.to_string())), "{:#?}", process.log);
}

#[test]
fn connections_have_a_line_each_and_messages_none() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let mut peer = client(address, NAMED);
    let who = format!("peer={} user=\"guest\" vhost=/ client=\"tester\"", peer.address().unwrap());
    let line = process.line("connection opened");
    assert!(line.contains("INFO") && line.contains(&who), "{line}");
    let before = process.log.len();

    call(&mut peer, "queue.declare", "queue=q", "queue.declare-ok");
    call(&mut peer, "confirm.select", "", "confirm.select-ok");
    for _ in 0..100 {
        publish(&mut peer, "q", b"message");
        expect(&peer.recv(), "basic.ack");
    }
    call(&mut peer, "basic.consume", "queue=q consumer-tag=c", "basic.consume-ok");
    for n in 1..=100 {
        content(&mut peer);
        peer.send(1, "basic.ack", &format!("delivery-tag={n}")).unwrap();
    }
    expect(&peer.call(0, "connection.close", "reply-code=200 reply-text=bye").unwrap(), "connection.close-ok");
    let line = process.line("connection closed");
    assert!(line.contains(&who) && line.contains("reason=\"closed by the client\""), "{line}");
    assert_eq!(process.log.len(), before + 1, "{:#?}", process.log);
}

#[test]
fn a_line_says_why_a_connection_ended() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let ended = |process: &mut Process, reason: &str| {
        let line = process.line("connection closed");
        assert!(line.contains(reason), "{reason}: {line}");
    };

    drop(client(address, NAMED));
    ended(&mut process, "reason=\"the client closed the socket\"");

    let mut peer = client(address, NAMED);
    expect(&peer.call(1, "channel.open", "").unwrap(), "connection.close");
    ended(&mut process, "CHANNEL_ERROR - second 'channel.open' seen");

    let mut peer = client(address, NAMED);
    expect(&peer.call(1, "basic.get", "queue=none").unwrap(), "channel.close");
    let line = process.line("channel closed");
    let said = line.contains("channel=1") && line.contains("no queue 'none' in vhost '/'");
    assert!(said && line.contains(&peer.address().unwrap().to_string()), "{line}");
    drop(peer);
    process.line("connection closed");

    let mut silent = client(address, "heartbeat=1");
    ended(&mut process, "missed heartbeats from client, timeout: 1s");
    while silent.recv() != Heard::Closed {}
}

#[test]
fn a_line_says_why_a_client_did_not_get_in() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let failed = |process: &mut Process, peer: &Peer, reason: &str| {
        let line = process.line(&format!("peer={} ", peer.address().unwrap()));
        assert!(line.contains(reason), "{reason}: {line}");
    };

    let mut peer = Peer::connect(address).unwrap();
    peer.login(&format!("{NAMED} password=wrong")).unwrap_err();
    failed(&mut process, &peer, "PLAIN login refused: user 'guest' - invalid credentials");
    process.line("connection refused");

    let mut peer = Peer::connect(address).unwrap();
    peer.patience = Duration::from_millis(100);
    peer.login("client-properties={} password=wrong").unwrap_err();
    failed(&mut process, &peer, "PLAIN login refused: user 'guest' - invalid credentials");

    let mut peer = Peer::connect(address).unwrap();
    peer.login(&format!("{NAMED} vhost=none")).unwrap_err();
    failed(&mut process, &peer, "vhost none not found");

    let mut peer = Peer::connect(address).unwrap();
    peer.send_octets(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    failed(&mut process, &peer, "an HTTP request on the AMQP port");
}

/// Awaits 320.
fn forced(peer: &mut Peer) {
    loop {
        match peer.recv() {
            Heard::Heartbeat(_) => {}
            close => {
                assert_eq!(close.method(), Some("connection.close"), "heard {close}");
                let text = "0 connection.close reply-code=320 \
                    reply-text=\"CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'\" \
                    class-id=0 method-id=0";
                return assert_eq!(close.to_string(), text);
            }
        }
    }
}

#[test]
fn signals_end_it_with_a_word_to_the_clients() {
    for signal in ["TERM", "INT"] {
        let directory = Directory::new();
        let (mut process, address) = Process::serve(&directory, &[]);
        let mut peers = [client(address, NAMED), client(address, "heartbeat=10")];
        process.signal(signal);
        let since = Instant::now();
        for peer in &mut peers {
            forced(peer);
            peer.send(0, "connection.close-ok", "").unwrap();
        }
        let status = process.end();
        let took = since.elapsed();
        assert!(status.code() == Some(0) && took < Duration::from_millis(500), "{status} after {took:?}");
        let log = process.log.join("\n");
        assert!(log.contains(&format!("SIG{signal}")) && log.contains("shutdown complete"), "{log}");
        assert_eq!(log.matches("reason=\"320 CONNECTION_FORCED - ").count(), 2, "{log}");
        for peer in &mut peers {
            assert_eq!(peer.recv(), Heard::Closed);
        }
        // The port is free at once.
        TcpListener::bind(address).unwrap();
    }
}

#[test]
fn clients_that_never_answer_do_not_keep_it() {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let mut mute = client(address, NAMED);
    // One that reads nothing, with more for it than any buffer holds.
    let mut deaf = client(address, NAMED);
    call(&mut deaf, "queue.declare", "queue=q", "queue.declare-ok");
    call(&mut deaf, "basic.consume", "queue=q consumer-tag=c no-ack", "basic.consume-ok");
    let body = vec![0; 1 << 20];
    for _ in 0..60 {
        publish(&mut mute, "q", &body);
    }
    ready(&mut mute, "q");
    // One that has not got in, and one that will not.
    let mut slow = Peer::connect(address).unwrap();
    slow.send_octets(peer::HEADER).unwrap();
    expect(&slow.recv(), "connection.start");
    let mut wrong = Peer::connect(address).unwrap();
    wrong.send_octets(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    process.line("an HTTP request");

    process.signal("TERM");
    let since = Instant::now();
    forced(&mut mute);
    let status = process.end();
    let took = since.elapsed();
    assert!(status.code() == Some(0) && took < Duration::from_secs(1), "{status} after {took:?}");
}

/// The client that is killed: it works until somebody ends it. Its words go to the test that
/// started it.
fn work(address: SocketAddr) {
    let mut peer = client(address, NAMED);
    call(&mut peer, "queue.declare", "queue=own exclusive", "queue.declare-ok");
    call(&mut peer, "basic.consume", "queue=work consumer-tag=c", "basic.consume-ok");
    for _ in 0..10 {
        content(&mut peer);
    }
    // One is done, one is acknowledged in half a frame, and a message is half sent.
    peer.send(1, "basic.ack", "delivery-tag=1").unwrap();
    call(&mut peer, "queue.declare", "queue=own passive", "queue.declare-ok");
    let fields = peer::text::fields("routing-key=work").unwrap();
    peer.send_fields(1, "basic.publish", &fields).unwrap();
    peer.send_octets(&peer::header(1, 60, 0, 100_000, &Vec::new()).unwrap()).unwrap();
    peer.send_octets(&peer::frame(3, 1, &[7; 50_000])[..40_000]).unwrap();
    println!("\nat work");
    std::io::stdout().flush().unwrap();
    peer.patience = Duration::from_secs(600);
    peer.recv();
}

#[test]
fn a_client_that_is_killed_leaves_its_work_to_others() {
    const ADDRESS: &str = "LEVERET_TEST_ADDRESS";
    if let Ok(address) = std::env::var(ADDRESS) {
        return work(address.parse().unwrap());
    }
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let mut watcher = client(address, "");
    call(&mut watcher, "queue.declare", "queue=work", "queue.declare-ok");
    for n in 0..10 {
        publish(&mut watcher, "work", &[n]);
    }
    // This very test in a process of its own, which then is the client.
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["a_client_that_is_killed_leaves_its_work_to_others", "--exact", "--nocapture"])
        .env(ADDRESS, address.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut words = BufReader::new(killed.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(words.any(|line| line == "at work"), "the client failed");
    process.line("connection opened");
    process.line("connection opened");
    assert_eq!(ready(&mut watcher, "work"), 0);

    killed.kill().unwrap();
    killed.wait().unwrap();
    let line = process.line("connection closed");
    assert!(line.contains("client=\"tester\""), "{line}");
    assert_eq!(ready(&mut watcher, "work"), 9);
    call(&mut watcher, "basic.consume", "queue=work consumer-tag=w no-ack", "basic.consume-ok");
    for n in 1..10 {
        let (delivered, body) = content(&mut watcher);
        assert!(delivered.to_string().contains("redelivered"), "{delivered}");
        assert_eq!(body, [n]);
    }
    let closed = call(&mut watcher, "queue.declare", "queue=own passive", "channel.close");
    assert_eq!(running::number(&closed, "reply-code"), 404);
}

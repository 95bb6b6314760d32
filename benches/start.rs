//! How long the program takes from its start to the first client's connection.open-ok, and how much
//! memory it holds then. `cargo bench --bench start`; it runs the program that cargo built for it,
//! optimized, and needs Linux.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STARTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to connect: short beside what is measured, long enough to leave the program
/// its core.
const PAUSE: Duration = Duration::from_micros(200);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A program that ends with the value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Outcome<()> {
    let directory = std::env::temp_dir().join(format!("leveret-start-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let measured: Outcome<Vec<_>> = (0..STARTS).map(|_| start(&directory)).collect();
    std::fs::remove_dir_all(&directory)?;
    let (mut times, mut memory): (Vec<Duration>, Vec<f64>) = measured?.into_iter().unzip();
    times.sort();
    memory.sort_by(f64::total_cmp);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let middle = STARTS / 2;
    println!(
        "start to first open-ok: {:.1} ms (median of {STARTS} starts, {:.1} to {:.1})",
        ms(times[middle]),
        ms(times[0]),
        ms(times[STARTS - 1])
    );
    println!("resident memory then: {:.1} MiB (median, at most {:.1})", memory[middle], memory[STARTS - 1]);
    Ok(())
}

/// Starts the program once: the time to open-ok, and VmRSS in MiB after the client has gone.
fn start(directory: &Path) -> Outcome<(Duration, f64)> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.current_dir(directory).args(["--bind", &address.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LEVERET_")) {
        command.env_remove(name);
    }
    let since = Instant::now();
    let program = Program(command.spawn()?);
    let mut socket = connect(address, since)?;
    log_in(&mut socket)?;
    let took = since.elapsed();
    // connection.close with code 200: answered when the broker has put the connection away.
    request(&mut socket, &[0, 10, 0, 50, 0, 200, 0, 0, 0, 0, 0], [0, 10, 0, 51])?;
    Ok((took, resident(program.0.id())?))
}

/// The handshake of AMQP 0-9-1, 2.2.4, as guest with all that the broker offers.
fn log_in(socket: &mut TcpStream) -> Outcome<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(b"AMQP\0\0\x09\x01")?;
    read_method(socket, [0, 10, 0, 10])?;
    let start_ok = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
    let tune = request(socket, start_ok, [0, 10, 0, 30])?;
    let tune_ok = [&[0, 10, 0, 31], tune.get(4..).unwrap_or_default()].concat();
    socket.write_all(&frame(&tune_ok))?;
    request(socket, b"\0\x0a\0\x28\x01/\0\0", [0, 10, 0, 41])?;
    Ok(())
}

fn frame(method: &[u8]) -> Vec<u8> {
    [&[1, 0, 0], &(method.len() as u32).to_be_bytes()[..], method, &[0xce]].concat()
}

fn request(socket: &mut TcpStream, method: &[u8], answer: [u8; 4]) -> Outcome<Vec<u8>> {
    socket.write_all(&frame(method))?;
    read_method(socket, answer)
}

fn read_method(socket: &mut TcpStream, expected: [u8; 4]) -> Outcome<Vec<u8>> {
    let mut head = [0; 7];
    socket.read_exact(&mut head)?;
    let [.., a, b, c, d] = head;
    let mut payload = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + 1];
    socket.read_exact(&mut payload)?;
    payload.pop();
    if payload.starts_with(&expected) { Ok(payload) } else { Err(format!("heard {payload:?}").into()) }
}

fn connect(address: SocketAddr, since: Instant) -> Outcome<TcpStream> {
    loop {
        match TcpStream::connect(address) {
            Ok(socket) => return Ok(socket),
            Err(error) if since.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Resident memory in MiB.
fn resident(id: u32) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

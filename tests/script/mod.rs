//! Scripts of client steps: their files, their recordings and the comparison of the two.
//! It knows no broker; `run` plays a case against an address.
//!
//! A file `tests/steps/<area>.steps` holds cases:
//!
//! ```text
//! # remark
//! case <id>: <one line that says what is shown>
//!   <step>
//! ```
//!
//! Steps act on the current connection (`a` at first). Unless its first step is `connect` or `login`, a connection
//! is opened as guest with channel 1 open.
//!
//! | step | does |
//! |---|---|
//! | `conn b` | makes `b` the current connection |
//! | `connect` | opens the socket, sends nothing |
//! | `login k=v ...` | the handshake; `user password vhost channel-max frame-max heartbeat client-properties` |
//! | `send CH method k=v flag ...` | a method; what is not named is zero or empty |
//! | `call CH method ...` | sends, then records one frame of that channel |
//! | `publish CH exchange=e key=k mandatory props={..} body=".."` | a whole publication |
//! | `store exchange=e ...` | publishes on a connection of its own and awaits the confirm: the message has arrived |
//! | `header CH class=60 weight=0 size=5 props={..}` | a content header frame |
//! | `body CH ".."` | a body frame |
//! | `frame TYPE CH octets end=ce size=N` | any frame; octets are hexadecimal or quoted; `size` lies about the length |
//! | `raw octets` | octets as they are |
//! | `heartbeat CH` | a heartbeat frame |
//! | `recv N [on CH]` | awaits and records N frames |
//! | `skip N` | awaits N frames and records nothing |
//! | `unordered N` | awaits N frames and records them sorted, a content with its method |
//! | `nothing CH [queue=q]` | records what comes before the answer to a harmless request, else `nothing` |
//! | `eventually METHOD [text]: method k=v ...` | asks on fresh channels until METHOD (holding text) answers; records that answer |
//! | `closed [SECONDS]` | records frames, heartbeats apart, until the broker closes the socket |
//! | `patience N` | frames are awaited for N seconds on this connection, instead of 5 |
//! | `drop` | closes the socket, saying nothing |
//! | `let NAME FIELD` | keeps a field of the last frame; `$NAME` stands for it in later steps |
//! | `forget FIELD/KEY` | records `...` for this field from here on |
//! | `repeat N step` | the same step N times |
//!
//! `~` stands for a suffix that differs from run to run, and so do the names that a broker makes up: recordings hold
//! `~`, `amq.gen-#1` and the like. `$client` is the usual client-properties table.
//! Values: `int32 1`, `uint8`, `int64`, `float64`, `decimal 2 314`, `time`, `bytes 00ff`, `void`, `true`, `"s"`,
//! `"x"*300`, `{k: v}`, `[v]`, `raw L 00*8` (letter and octets), `nested 100 tables`.

pub mod run;

use std::collections::BTreeMap;
use std::path::Path;

/// One case of a file.
pub struct Case {
    /// `<area>.<id>`
    pub id: String,
    pub steps: Vec<Step>,
}

/// One line of a case.
pub struct Step {
    /// Number of the line in its file.
    pub line: usize,
    pub text: String,
}

/// The cases of one area, in order.
pub fn cases(directory: &Path, area: &str) -> Result<Vec<Case>, String> {
    let path = directory.join(format!("{area}.steps"));
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path:?}: {error}"))?;
    let mut cases: Vec<Case> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let (line, number) = (line.trim_end(), i + 1);
        if line.is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("case ") {
            let (id, _claim) =
                title.split_once(':').ok_or_else(|| format!("{path:?}:{number}: `case id: claim` expected"))?;
            let id = format!("{area}.{}", id.trim());
            if cases.iter().any(|case| case.id == id) {
                return Err(format!("{path:?}:{number}: {id} is there twice"));
            }
            cases.push(Case { id, steps: Vec::new() });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| format!("{path:?}:{number}: a step before the first case"))?;
        case.steps.push(Step { line: number, text: line.trim().to_owned() });
    }
    Ok(cases)
}

/// Case id to the lines recorded for it.
pub type Recording = BTreeMap<String, Vec<String>>;

/// Reads a recording; a missing file is an empty one.
pub fn read_recording(path: &Path) -> Recording {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut recording = Recording::new();
    let mut current: Option<&mut Vec<String>> = None;
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("case ") {
            current = Some(recording.entry(id.to_owned()).or_default());
        } else if let (Some(lines), Some(line)) = (current.as_mut(), line.strip_prefix("  ")) {
            lines.push(line.to_owned());
        }
    }
    recording
}

/// Writes a recording in the order of the cases.
pub fn write_recording(path: &Path, results: &[(String, Vec<String>)]) -> std::io::Result<()> {
    let mut text = String::new();
    for (id, lines) in results {
        text += &format!("case {id}\n");
        lines.iter().for_each(|line| text += &format!("  {line}\n"));
        text.push('\n');
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, text)
}

/// A difference that is meant, of `differences.toml`.
#[derive(Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Case ids; a `*` at the end stands for any rest.
    pub cases: Vec<String>,
    /// Who differs from the recording of RabbitMQ 4.3: `rabbitmq-3.10` or `leveret`.
    pub broker: String,
    pub reason: String,
    /// The recording that is followed instead.
    pub follows: Option<String>,
    /// The lines that are heard instead. With neither, anything is.
    pub instead: Option<Vec<String>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    difference: Vec<Difference>,
}

/// Reads `differences.toml`.
pub fn differences(path: &Path) -> Result<Vec<Difference>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path:?}: {error}"))?;
    let list: Differences = toml::from_str(&text).map_err(|error| format!("{path:?}: {error}"))?;
    match list.difference.iter().find(|difference| difference.reason.is_empty()) {
        Some(difference) => Err(format!("no reason for {:?}", difference.cases)),
        None => Ok(list.difference),
    }
}

impl Difference {
    /// Whether a case is meant by this entry.
    pub fn covers(&self, id: &str, broker: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(head) => id.starts_with(head),
            None => id == pattern,
        };
        self.broker == broker && self.cases.iter().any(matches)
    }
}

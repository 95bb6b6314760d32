//! `leveret store check` and `leveret store repair`: the contents of a data directory, and what can
//! be saved of a damaged one, while no broker uses it.
//!
//! Exit codes: 0 when the directory is sound (or was repaired), 1 when it is damaged or cannot be
//! read, 2 for bad arguments.

use crate::broker::definitions::{self, Declaration};
use crate::server::data_dir::DataDir;
use crate::server::storage::JOURNAL;
use clap::Subcommand;
use leveret_journal::check::{Check, QueueCheck, SegmentCheck, check};
use leveret_journal::damage::Damage;
use leveret_journal::disk::Disk;
use leveret_journal::error::StoreError;
use leveret_journal::real::RealDisk;
use leveret_journal::recovery::Definition;
use leveret_journal::repair::{Plan, plan};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `leveret store`.
#[derive(Debug, clap::Args)]
pub struct StoreArguments {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read everything and report it; nothing is changed.
    Check {
        /// The broker's data directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Report what a repair of a damaged directory gives up; with --yes, repair it.
    Repair {
        /// The broker's data directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command and prints its result.
pub fn run(arguments: &StoreArguments) -> ExitCode {
    let outcome = match &arguments.command {
        StoreCommand::Check { dir, json } => open(dir).and_then(|(_lock, disk)| Ok(look(&disk, *json)?)),
        StoreCommand::Repair { dir, yes } => open(dir).and_then(|(_lock, disk)| Ok(repair(&disk, *yes)?)),
    };
    let (text, code) = outcome.unwrap_or_else(|error| (format!("leveret: {error}\n"), 1));
    // A closed standard output is no error.
    let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
    ExitCode::from(code)
}

/// Opens a data directory and locks it against brokers.
fn open(directory: &Path) -> Result<(DataDir, RealDisk), Box<dyn std::error::Error>> {
    let journal = directory.join(JOURNAL);
    if !journal.is_dir() {
        return Err(format!("{} holds no store", directory.display()).into());
    }
    let lock = DataDir::lock(directory)?;
    Ok((lock, RealDisk::open(&journal)?))
}

/// Returns the text and exit code of a check.
fn look(disk: &dyn Disk, json: bool) -> Result<(String, u8), StoreError> {
    let checked = match check(disk, &mut |_| {}) {
        Ok(checked) => checked,
        Err(error @ (StoreError::Corrupt { .. } | StoreError::Missing { .. })) => {
            let damages = plan(disk)?.damages;
            let error = error.to_string();
            let damaged =
                if json { format!("{}\n", damaged_json(&error, &damages)) } else { damaged(&error, &damages) };
            return Ok((damaged, 1));
        }
        Err(error) => return Err(error),
    };
    let names = names(&checked.definitions);
    let text = if json { format!("{}\n", sound_json(&checked, &names)) } else { table(&checked, &names) };
    Ok((text, 0))
}

/// Returns the text and exit code of a repair.
fn repair(disk: &dyn Disk, yes: bool) -> Result<(String, u8), StoreError> {
    let plan: Plan = plan(disk)?;
    if plan.damages.is_empty() {
        return Ok(("nothing is damaged\n".to_owned(), 0));
    }
    let mut text = list(&plan.damages);
    if plan.is_needless {
        text += "Nothing has to be given up: the broker was stopped in order, and its checkpoint knows what is live. It can be started: \
                 it reads around the damage, says which messages are lost, if any, and moves the others away.\n";
        return Ok((text, 0));
    }
    if !yes {
        text += "Whatever stands there is lost: messages that were confirmed may be missing afterwards, and what was settled or deleted \
                 may return.\nNothing was changed. With --yes it is done; keep a copy of the directory.\n";
        return Ok((text, 1));
    }
    let drawn = getrandom::u64().map_err(|error| io::Error::other(error.to_string()));
    plan.apply(disk, drawn.map_err(StoreError::io("cannot draw a random number"))?)?;
    let checked = check(disk, &mut |_| {})?;
    text += "repaired; what is left:\n\n";
    text += &table(&checked, &names(&checked.definitions));
    Ok((text, 0))
}

/// Returns the virtual hosts and names of queues by their numbers.
fn names(definitions: &[Definition]) -> BTreeMap<u64, (String, String)> {
    let queue = |definition: &Definition| match definitions::read(&definition.key, &definition.value) {
        Ok((vhost, Declaration::Queue(declared, number))) => {
            Some((number, (vhost.to_string(), declared.name.to_string())))
        }
        _ => None,
    };
    definitions.iter().filter_map(queue).collect()
}

fn list(damages: &[Damage]) -> String {
    damages.iter().map(|damage| format!("{damage}\n")).collect()
}

fn damaged(error: &str, damages: &[Damage]) -> String {
    format!("DAMAGED: {error}\n\n{}`leveret store repair` says what can be done.\n", list(damages))
}

fn damaged_json(error: &str, damages: &[Damage]) -> Value {
    let damage = |Damage { file, offset, octets, what }: &Damage| json!({ "file": file, "offset": offset, "octets": octets, "what": what });
    json!({ "ok": false, "error": error, "damages": damages.iter().map(damage).collect::<Vec<_>>() })
}

fn table(checked: &Check, names: &BTreeMap<u64, (String, String)>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:>8}  {:>12}  {:>14}  {:>14}  {:<12}  queue",
        "number", "messages", "octets live", "on disk", "vhost"
    );
    for QueueCheck { queue, messages, octets, on_disk, .. } in &checked.queues {
        let unknown = (String::new(), "(none: not durable, or deleted)".to_owned());
        let (vhost, name) = names.get(queue).unwrap_or(&unknown);
        let _ = writeln!(text, "{queue:>8}  {messages:>12}  {octets:>14}  {on_disk:>14}  {vhost:<12}  {name}");
    }
    let messages: u64 = checked.queues.iter().map(|queue| queue.messages).sum();
    let _ = writeln!(
        text,
        "\n{messages} messages in {} queues, {} definitions",
        checked.queues.len(),
        checked.definitions.len()
    );
    let _ = writeln!(text, "{} octets live, {} dead", checked.live, checked.dead);
    let capacity: u64 = checked.segments.iter().map(|segment| segment.capacity).sum();
    let (segments, spare_files, leftovers) = (checked.segments.len(), checked.spare_files, checked.leftovers);
    let _ = writeln!(
        text,
        "{segments} segments of {capacity} octets, {spare_files} spare, {leftovers} not needed any more"
    );
    for SegmentCheck { file, written, live, .. } in &checked.segments {
        let _ = writeln!(text, "  {file}  {written} octets written, {live} live");
    }
    for Damage { file, offset, octets, .. } in &checked.torn {
        let _ = writeln!(
            text,
            "{file}: a torn end of {octets} octets from octet {offset}, never confirmed: the next start cuts it"
        );
    }
    let _ = writeln!(text, "checkpoint: {}", if checked.has_checkpoint { "yes" } else { "no" });
    text
}

fn sound_json(checked: &Check, names: &BTreeMap<u64, (String, String)>) -> Value {
    let queue = |queue: &QueueCheck| {
        let (vhost, name) = names.get(&queue.queue).map(|(vhost, name)| (vhost, name)).unzip();
        json!({
            "number": queue.queue,
            "vhost": vhost,
            "name": name,
            "messages": queue.messages,
            "octets": queue.octets,
            "on_disk": queue.on_disk,
            "next_seq": queue.next_seq,
            "delivered_upto": queue.delivered_upto,
        })
    };
    let segment = |SegmentCheck { file, capacity, written, live, .. }: &SegmentCheck| json!({ "file": file, "capacity": capacity, "written": written, "live": live });
    json!({
        "ok": true,
        "queues": checked.queues.iter().map(queue).collect::<Vec<_>>(),
        "definitions": checked.definitions.len(),
        "live": checked.live,
        "dead": checked.dead,
        "segments": checked.segments.iter().map(segment).collect::<Vec<_>>(),
        "spare_files": checked.spare_files,
        "leftovers": checked.leftovers,
        "torn_records": checked.torn_records,
        "torn_octets": checked.torn.iter().map(|torn| torn.octets).sum::<u64>(),
        "checkpoint": checked.has_checkpoint,
    })
}

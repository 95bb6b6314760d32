//! `leveret store check` and `leveret store repair`: what a data directory holds, and what can be saved of a damaged one, while no broker
//! uses it. It knows no format.
//!
//! Exit codes: 0 when the directory is sound (or was repaired), 1 when it is damaged or cannot be read, 2 for bad arguments.

use crate::broker::definitions::{self, Defined};
use crate::perf::report::Json;
use crate::server::data_dir::DataDir;
use crate::server::keeping::JOURNAL;
use crate::store::check::{Check, QueueCheck, SegmentCheck, check};
use crate::store::disk::Disk;
use crate::store::error::StoreError;
use crate::store::real::RealDisk;
use crate::store::recovery::Definition;
use crate::store::repair::{Damage, Plan, plan};
use clap::Subcommand;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What `leveret store` may be told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read everything and say what is there; nothing is changed.
    Check {
        /// The broker's data directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say what of a damaged directory has to be given up; with --yes, give it up.
    Repair {
        /// The broker's data directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// Does what the arguments say, and prints it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let outcome = match &arguments.command {
        Command::Check { dir, json } => open(dir).and_then(|(_lock, disk)| Ok(look(&disk, *json)?)),
        Command::Repair { dir, yes } => open(dir).and_then(|(_lock, disk)| Ok(mend(&disk, *yes)?)),
    };
    let (text, code) = outcome.unwrap_or_else(|error| (format!("leveret: {error}\n"), 1));
    // Nobody reads it any more: nothing to do about that.
    let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
    ExitCode::from(code)
}

/// Holds the directory against brokers while it is looked at.
fn open(directory: &Path) -> Result<(DataDir, RealDisk), Box<dyn std::error::Error>> {
    let journal = directory.join(JOURNAL);
    if !journal.is_dir() {
        return Err(format!("{} holds no store", directory.display()).into());
    }
    let lock = DataDir::lock(directory)?;
    Ok((lock, RealDisk::open(&journal)?))
}

/// Text and exit code of a check.
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

/// Text and exit code of a repair.
fn mend(disk: &dyn Disk, yes: bool) -> Result<(String, u8), StoreError> {
    let plan: Plan = plan(disk)?;
    if plan.damages.is_empty() {
        return Ok(("nothing is damaged\n".to_owned(), 0));
    }
    let mut text = list(&plan.damages);
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

/// Virtual hosts and names of queues by their numbers.
fn names(definitions: &[Definition]) -> BTreeMap<u64, (String, String)> {
    let queue = |definition: &Definition| match definitions::read(&definition.key, &definition.value) {
        Ok((vhost, Defined::Queue(declared, number))) => Some((number, (vhost.to_string(), declared.name.to_string()))),
        _ => None,
    };
    definitions.iter().filter_map(queue).collect()
}

fn list(damages: &[Damage]) -> String {
    damages.iter().fold(String::new(), |mut text, Damage { file, offset, octets, what }| {
        let _ = writeln!(text, "{file}: {octets} octets from octet {offset}: {what}");
        text
    })
}

fn damaged(error: &str, damages: &[Damage]) -> String {
    format!("DAMAGED: {error}\n\n{}`leveret store repair` says what can be done.\n", list(damages))
}

fn damaged_json(error: &str, damages: &[Damage]) -> Json {
    let damage = |damage: &Damage| {
        Json::Object(vec![
            ("file", Json::text(&damage.file)),
            ("offset", damage.offset.into()),
            ("octets", damage.octets.into()),
            ("what", Json::text(damage.what)),
        ])
    };
    let damages = damages.iter().map(damage).collect();
    Json::Object(vec![("ok", Json::Bool(false)), ("error", Json::text(error)), ("damages", Json::List(damages))])
}

fn table(checked: &Check, names: &BTreeMap<u64, (String, String)>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{:>8}  {:>12}  {:>14}  {:<12}  queue", "number", "messages", "octets", "vhost");
    for QueueCheck { queue, messages, octets, .. } in &checked.queues {
        let unknown = (String::new(), "(none: not durable, or deleted)".to_owned());
        let (vhost, name) = names.get(queue).unwrap_or(&unknown);
        let _ = writeln!(text, "{queue:>8}  {messages:>12}  {octets:>14}  {vhost:<12}  {name}");
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
    let (segments, spares, leftovers) = (checked.segments.len(), checked.spares, checked.leftovers);
    let _ = writeln!(text, "{segments} segments of {capacity} octets, {spares} spare, {leftovers} not needed any more");
    for SegmentCheck { file, written, live, .. } in &checked.segments {
        let _ = writeln!(text, "  {file}  {written} octets written, {live} live");
    }
    if checked.torn.octets > 0 {
        let (records, octets) = (checked.torn.records, checked.torn.octets);
        let _ = writeln!(
            text,
            "a torn end of {records} records in {octets} octets, never confirmed: the next start cuts it"
        );
    }
    let _ = writeln!(text, "checkpoint: {}", if checked.has_checkpoint { "yes" } else { "no" });
    text
}

fn sound_json(checked: &Check, names: &BTreeMap<u64, (String, String)>) -> Json {
    let queue = |queue: &QueueCheck| {
        let name = |part: fn(&(String, String)) -> &String| {
            names.get(&queue.queue).map_or(Json::Null, |names| Json::text(part(names)))
        };
        Json::Object(vec![
            ("number", queue.queue.into()),
            ("vhost", name(|(vhost, _)| vhost)),
            ("name", name(|(_, name)| name)),
            ("messages", queue.messages.into()),
            ("octets", queue.octets.into()),
            ("next_position", queue.next_seq.into()),
            ("handed_out", queue.handed_out.into()),
        ])
    };
    let segment = |segment: &SegmentCheck| {
        Json::Object(vec![
            ("file", Json::text(&segment.file)),
            ("capacity", segment.capacity.into()),
            ("written", segment.written.into()),
            ("live", segment.live.into()),
        ])
    };
    Json::Object(vec![
        ("ok", Json::Bool(true)),
        ("queues", Json::List(checked.queues.iter().map(queue).collect())),
        ("definitions", (checked.definitions.len() as u64).into()),
        ("live", checked.live.into()),
        ("dead", checked.dead.into()),
        ("segments", Json::List(checked.segments.iter().map(segment).collect())),
        ("spares", checked.spares.into()),
        ("leftovers", checked.leftovers.into()),
        ("torn_records", checked.torn.records.into()),
        ("torn_octets", checked.torn.octets.into()),
        ("checkpoint", Json::Bool(checked.has_checkpoint)),
    ])
}

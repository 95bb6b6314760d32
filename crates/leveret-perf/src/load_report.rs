//! Reports of a load, and of several in search of the highest rate.

use crate::load::Load;
use crate::options::LoadOptions;
use crate::report::{RunReport, grouped, per_second, rounded, thousandths, time};
use serde_json::{Value, json};

/// The report of one load.
pub fn report(load: &Load) -> RunReport {
    let mut report = RunReport::new("load", &load.broker);
    tell(load, &mut report);
    report.faults.clone_from(&load.faults);
    report
}

/// Adds everything about a load.
pub fn tell(load: &Load, report: &mut RunReport) {
    let messages = |count: u64, rate: f64| format!("{} messages, {}/s", grouped(count), rounded(rate));
    report.field("seconds", thousandths(load.seconds));
    report.line("published", messages(load.published, load.published_per_second));
    report.field("published", flow(load.published, load.published_per_second));
    report.line("consumed", messages(load.consumed, load.consumed_per_second));
    report.field("consumed", flow(load.consumed, load.consumed_per_second));
    let (drained, seconds) = load.drained;
    report.line(
        "drained",
        format!("{} messages in {} behind the last publication", grouped(drained), time(seconds * 1e6)),
    );
    report.field("drained", flow_in(drained, seconds));
    let [confirmed, nacked, returned, unconfirmed] = load.confirms;
    if confirmed + nacked + unconfirmed > 0 {
        report.line(
            "confirmed",
            format!("{}, {} refused, {} open", grouped(confirmed), grouped(nacked), grouped(unconfirmed)),
        );
    }
    if returned > 0 {
        report.line("returned", format!("{} messages", grouped(returned)));
    }
    for (name, count) in
        [("confirmed", confirmed), ("nacked", nacked), ("returned", returned), ("unconfirmed", unconfirmed)]
    {
        report.field(name, count);
    }
    let verdict = &load.verdict;
    for (name, count) in [
        ("lost", verdict.lost),
        ("duplicated", verdict.duplicated),
        ("disordered", verdict.disordered),
        ("foreign", verdict.foreign),
        ("redelivered", verdict.redelivered),
    ] {
        report.field(name, count);
    }
    if load.held > 0.0 {
        report.line("held back", format!("{} by the broker, all producers together", time(load.held * 1e6)));
    }
    report.field("held_seconds", thousandths(load.held));
    report.latency("latency", "latency_us", load.latency);
    report.latency("confirms", "confirm_latency_us", load.confirm_latency);
    usage(load, report);
}

/// The broker's CPU time and memory.
fn usage(load: &Load, report: &mut RunReport) {
    let Some((before, after, peak)) = load.usage else {
        report.field("cpu_us_per_message", Value::Null);
        report.field("cpu_cores", Value::Null);
        report.field("resident_kib", Value::Null);
        return;
    };
    let messages = if load.consumed > 0 { load.consumed } else { load.published };
    let cpu = per_second(1, messages as f64) * (after.cpu - before.cpu) * 1e6;
    let cores = (after.cpu - before.cpu) / load.used_seconds.max(1e-3);
    report.line(
        "broker's use",
        format!(
            "{cpu:.3} us of CPU a message, {cores:.2} cores; {} KiB resident, {} at the beginning, {} at most",
            grouped(after.resident),
            grouped(before.resident),
            grouped(peak)
        ),
    );
    report.field("cpu_us_per_message", thousandths(cpu));
    report.field("cpu_cores", thousandths(cores));
    report.field("resident_kib", resident(before.resident, after.resident, peak));
    if let Some(full) = load.full {
        let each = full.saturating_sub(before.resident) as f64 / load.published.max(1) as f64;
        report.line("backlog", format!("{} KiB resident, {each:.2} KiB a message", grouped(full)));
        report.field("backlog_kib", full);
        report.field("backlog_kib_each", thousandths(each));
    }
}

/// Resident memory in KiB.
pub fn resident(before: u64, after: u64, peak: u64) -> Value {
    json!({ "before": before, "after": after, "peak": peak })
}

fn flow(messages: u64, per_second: f64) -> Value {
    json!({ "messages": messages, "per_second": thousandths(per_second) })
}

fn flow_in(messages: u64, seconds: f64) -> Value {
    let rate = per_second(messages, seconds);
    json!({ "messages": messages, "seconds": thousandths(seconds), "per_second": thousandths(rate) })
}

/// One step of a ramp.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Messages a second of all producers together.
    pub rate: f64,
    /// True if it stayed under the bound and kept the rate.
    pub held: bool,
    /// Results at that rate.
    pub load: Load,
}

/// The report of a ramp.
pub fn ramp_report(options: &LoadOptions, bound_ms: f64, trials: &[Trial]) -> RunReport {
    let broker = trials.first().map_or("unknown", |trial| trial.load.broker.as_str());
    let mut report = RunReport::new("ramp", broker);
    let best = trials.iter().filter(|trial| trial.held).max_by(|one, two| one.rate.total_cmp(&two.rate));
    let rate = best.map_or(0.0, |trial| trial.rate);
    let producers = options.producers as f64;
    let text = format!("{}/s, {}/s a producer, with p99 under {bound_ms} ms", rounded(rate), rounded(rate / producers));
    report.line("highest rate", text);
    report.field("bound_ms", thousandths(bound_ms));
    report.field("rate", thousandths(rate));
    let trial = |trial: &Trial| {
        let p99 = trial.load.latency.p99;
        json!({ "rate": thousandths(trial.rate), "p99_us": thousandths(p99), "held": trial.held })
    };
    report.field("trials", trials.iter().map(trial).collect::<Vec<_>>());
    match best {
        Some(trial) => tell(&trial.load, &mut report),
        None => report.faults.push(format!("no rate kept p99 under {bound_ms} ms")),
    }
    report.faults.extend(trials.iter().flat_map(|trial| trial.load.faults.iter().cloned()));
    report
}

//! Which of a queue's messages are in memory and which in the journal only: on the way in, and
//! back. Decides nothing about deliveries.

use crate::escaped::Escaped;
use crate::limits;
use crate::message::{Message, Publication};
use crate::queue::admission::Admission;
use crate::queue::context::QueueContext;
use crate::queue::core::Core;
use crate::queue::journal_batch;
use crate::queue::ready::Front;
use crate::queue::settled::Storage;
use leveret_journal::journal::Journal;
use leveret_journal::list::Run;
use leveret_journal::read::Unreadable;
use leveret_journal::record::PublishRecord;
use leveret_wire::name::Name;

/// Bodies by id; `None`: it cannot be read.
pub type Bodies = Vec<(u64, Option<(Message, Storage)>)>;

/// Returns whether consumers may soon want more bodies than are in memory.
pub fn is_short(context: &QueueContext, core: &Core) -> bool {
    match core.front() {
        Front::Stored => true,
        Front::Resident(_) => {
            let ready = core.ready_messages();
            ready.stored().count > 0 && ready.resident_charge() < 2 * context.page_in_octets()
        }
        Front::Empty => false,
    }
}

/// Reads bodies of the queue with this number, from those that are wanted first; beside them,
/// messages that cannot be read.
pub fn read_bodies(context: &QueueContext, queue: u64, wanted: Run, is_durable: bool) -> (Bodies, Vec<Unreadable>) {
    let Some(journal) = context.journal() else { return Default::default() };
    let count = usize::try_from(wanted.last - wanted.first + 1).unwrap_or(usize::MAX);
    let (messages, octets) = (limits::PAGE_IN_MESSAGES.min(count), context.page_in_octets());
    let mut bodies = Bodies::new();
    let mut unreadable = journal.visit_run(queue, wanted.first, messages, octets, &mut |id, publish| {
        let PublishRecord { route, properties, body, flags, .. } = publish;
        let persistent = flags & journal_batch::PERSISTENT != 0;
        if id <= wanted.last {
            let message = Publication { route, properties, body, persistent }.keep(context.memory());
            let storage = if persistent && is_durable { Storage::Durable } else { Storage::Spilled };
            bodies.push((id, Some((message, storage))));
        }
    });
    unreadable.retain(|lost| lost.seq <= wanted.last);
    if !unreadable.is_empty() {
        bodies.extend(unreadable.iter().map(|lost| (lost.seq, None)));
        bodies.sort_unstable_by_key(|(id, _)| *id);
    }
    (bodies, unreadable)
}

/// Logs and counts messages of a queue that the journal cannot read, and those that it does not
/// have.
pub fn report_lost(name: &Name, journal: &Journal, unreadable: &[Unreadable], missing: usize) {
    let queue = Escaped::name(name.as_octets());
    if missing > 0 {
        tracing::error!(%queue, messages = missing, "messages lost: the journal does not have them");
    }
    journal.damages.count_lost((unreadable.len() + missing) as u64);
    for Unreadable { seq, file, offset, error } in unreadable {
        tracing::error!(%queue, id = seq, file, offset, %error, "message lost: it cannot be read from the journal");
    }
}

/// Returns where a run of messages goes that comes into a queue, and how many of them the queue
/// takes. While the broker is short of memory, bodies that the journal has leave it first.
pub fn admit(context: &QueueContext, core: &mut Core, run: &[Message], is_written_once: bool) -> Admission {
    let durable = core.options().durable;
    let all = Admission { durable, taken: core.room(run.len()), ..Admission::in_memory(core.next_id()) };
    if context.journal().is_none() {
        return Admission { durable: false, ..all };
    }
    let memory = context.memory().estimate();
    let is_paging = memory > context.page_at();
    let limit = match () {
        () if !is_paging => context.resident_octets(memory),
        () if core.consumer_count() > 0 => limits::RESIDENT_MIN,
        // Nobody will take them soon.
        () => 0,
    };
    if is_paging {
        core.page_out(limit);
    }
    if core.has_backlog() {
        return Admission { resident: 0, spilled_from: 0, ..all };
    }
    if !durable && !is_paging {
        return all;
    }
    let mut ready = core.ready_messages().resident_charge();
    let unacked = if is_paging { core.unacked_body_charge() } else { 0 };
    let (mut resident, mut spilled_from) = (usize::MAX, usize::MAX);
    for (at, message) in all.taken(run).iter().enumerate() {
        let is_durable = durable && message.is_persistent();
        if !is_durable && !is_written_once && message.is_shared() {
            // Other queues have its body in memory, and each would write it once more.
            ready += message.charge();
            continue;
        }
        if (is_durable || is_paging) && ready >= limit {
            resident = at;
            break;
        }
        if is_paging && !is_durable && spilled_from == usize::MAX && ready + unacked >= limit {
            // It is delivered from memory, and then its body can be dropped.
            spilled_from = at;
        }
        ready += message.charge();
    }
    Admission { resident, spilled_from: spilled_from.min(resident), ..all }
}

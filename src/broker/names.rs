//! Rules for the names that clients give to queues and exchanges.

use crate::broker::resource::Text;
use leveret_wire::fault::{Code, Fault};

/// Returns the name without carriage returns and line feeds, which RabbitMQ strips.
pub fn strip_cr_lf(name: &[u8]) -> Vec<u8> {
    name.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect()
}

/// Returns the 403 for a reserved name, one that begins with `amq.`.
pub(super) fn reserved(kind: &str, name: &[u8]) -> Fault {
    let name = Text(name);
    Fault::new(Code::AccessRefused, format_args!("{kind} name '{name}' contains reserved prefix 'amq.*'"))
}

/// Refuses the name of the default exchange.
///
/// # Errors
/// 403 for the empty name.
pub(super) fn refuse_default(name: &[u8]) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::new(Code::AccessRefused, "operation not permitted on the default exchange"));
    }
    Ok(())
}

//! The step that takes confirms as they come, each for one publication or for several.

use std::collections::BTreeSet;

use crate::peer::Heard;
use crate::peer::text::{Cursor, number};
use crate::peer::value::Value;
use crate::play::state::Play;
use crate::play::text::{channel_of, is_over};

impl Play<'_> {
    /// `confirmed N [on CH]`: awaits acks until the first N publications have theirs, each once.
    /// Anything else is a line.
    pub(super) fn confirmed(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let count: u64 = number(cursor.item())?;
        let channel = channel_of(cursor)?;
        let mut open: BTreeSet<u64> = (1..=count).collect();
        while !open.is_empty() {
            let heard = self.next(channel)?;
            if settles(&mut open, &heard) {
                continue;
            }
            let over = is_over(&heard);
            self.record(heard);
            if over {
                let missing = open.first().map_or(0, |tag| *tag);
                return Err(format!("{} publications are not confirmed, the first is {missing}", open.len()));
            }
        }
        self.note(&format!("confirmed {count}"));
        Ok(())
    }
}

/// Removes what an ack settles. False if it settles anything that is not open.
fn settles(open: &mut BTreeSet<u64>, heard: &Heard) -> bool {
    let (Some("basic.ack"), Some(Value::Number(tag))) = (heard.method(), heard.field("delivery-tag")) else {
        return false;
    };
    let Ok(tag) = u64::try_from(*tag) else { return false };
    if !open.remove(&tag) {
        return false;
    }
    if heard.field("multiple") == Some(&Value::Bool(true)) {
        open.retain(|other| *other > tag);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::text::fields;

    #[test]
    fn each_is_confirmed_once() {
        let mut open: BTreeSet<u64> = (1..=5).collect();
        let ack = |text: &str| Heard::Method(1, "basic.ack", fields(text).unwrap());
        assert!(settles(&mut open, &ack("delivery-tag=2")));
        assert!(settles(&mut open, &ack("delivery-tag=4 multiple=true")));
        assert_eq!(open, BTreeSet::from([5]));
        for wrong in ["delivery-tag=2", "delivery-tag=3 multiple=true", "delivery-tag=6"] {
            assert!(!settles(&mut open, &ack(wrong)), "{wrong}");
        }
    }
}

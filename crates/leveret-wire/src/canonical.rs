//! Field tables in one canonical form, so that tables that count as equal have equal octets. It
//! knows no argument's meaning.

use crate::table::{Table, TableError};

/// A field table that is kept to be compared: two of them are equal exactly if their octets are.
///
/// The entries are sorted by key, as RabbitMQ sorts the arguments of a binding: stably, and the
/// outermost level only, so that the order inside a nested table counts. `L` is written as `l`, and
/// every true boolean as 1, at all levels.
#[derive(Clone, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalTable(Box<[u8]>);

impl CanonicalTable {
    /// Returns the table, borrowed.
    pub fn as_table(&self) -> Table<'_> {
        Table::from_checked(&self.0)
    }

    /// Checks octets that were kept earlier, which another version may have written in another
    /// form.
    ///
    /// # Errors
    /// See [`Table::check`].
    pub fn check(octets: &[u8]) -> Result<CanonicalTable, TableError> {
        Table::check(octets).map(CanonicalTable::from)
    }
}

impl From<Table<'_>> for CanonicalTable {
    fn from(table: Table<'_>) -> CanonicalTable {
        let mut octets = table.octets().to_vec();
        let ends = normalise(&mut octets);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let mut entries: Vec<&[u8]> = starts.zip(&ends).filter_map(|(start, end)| octets.get(start..*end)).collect();
        if entries.is_sorted_by_key(|entry| key(entry)) {
            return CanonicalTable(octets.into());
        }
        entries.sort_by_key(|entry| key(entry));
        CanonicalTable(entries.concat().into())
    }
}

/// The key of an entry: a short string.
fn key(entry: &[u8]) -> &[u8] {
    entry.split_first().and_then(|(length, rest)| rest.get(..usize::from(*length))).unwrap_or_default()
}

/// Rewrites the values that can be written in two ways, in one walk over all levels. Returns where
/// each entry of the outermost level ends.
fn normalise(octets: &mut [u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut above = Vec::new();
    let (mut end, mut is_table, mut at) = (octets.len(), true, 0);
    loop {
        while at >= end {
            let Some(outer) = above.pop() else { return ends };
            (end, is_table) = outer;
            if above.is_empty() {
                ends.push(at);
            }
        }
        if is_table {
            at += 1 + octets.get(at).copied().map_or(0, usize::from);
        }
        let Some(kind) = octets.get_mut(at) else { return ends };
        at += 1;
        let inside = match *kind {
            b'L' => {
                *kind = b'l';
                8
            }
            b't' => {
                if let Some(truth) = octets.get_mut(at) {
                    *truth = u8::from(*truth != 0);
                }
                1
            }
            b'F' | b'A' => {
                let is_table_within = *kind == b'F';
                let length = length(octets, at);
                at += 4;
                above.push((end, is_table));
                (end, is_table) = (at.saturating_add(length), is_table_within);
                continue;
            }
            b'S' | b'x' => length(octets, at).saturating_add(4),
            b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'd' | b'T' => 8,
            _ => 0,
        };
        at = at.saturating_add(inside);
        if above.is_empty() {
            ends.push(at);
        }
    }
}

/// The length in front of a long string, a table or an array.
fn length(octets: &[u8], at: usize) -> usize {
    let length = octets.get(at..).and_then(|rest| rest.first_chunk::<4>());
    length.map_or(0, |length| u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Value;
    use crate::table_builder::{ArrayBuilder, TableBuilder};
    use proptest::prelude::*;

    fn canonical(octets: &[u8]) -> CanonicalTable {
        CanonicalTable::check(octets).unwrap()
    }

    #[test]
    fn order_of_keys_and_ways_of_writing_a_value_do_not_count() {
        for (one, other) in [
            (&b"\x01at\x01\x01bV"[..], &b"\x01bV\x01at\x02"[..]),
            (b"\x01aL\0\0\0\0\0\0\0\x05", b"\x01al\0\0\0\0\0\0\0\x05"),
            (b"\x01aF\0\0\0\x04\x01xt\x01", b"\x01aF\0\0\0\x04\x01xt\x02"),
            (b"\x01aA\0\0\0\x0bt\x07L\0\0\0\0\0\0\0\x05", b"\x01aA\0\0\0\x0bt\x01l\0\0\0\0\0\0\0\x05"),
            (b"\x01bF\0\0\0\x0a\x01xF\0\0\0\x03\x01yV\x01aV", b"\x01aV\x01bF\0\0\0\x0a\x01xF\0\0\0\x03\x01yV"),
        ] {
            assert_eq!(canonical(one), canonical(other));
        }
        assert_eq!(canonical(b"\x01bV\x01at\x02").as_table().octets(), b"\x01at\x01\x01bV");
    }

    #[test]
    fn types_values_duplicates_and_the_order_within_a_value_count() {
        for (one, other) in [
            (&b"\x01ab\x05"[..], &b"\x01aB\x05"[..]),
            (b"\x01aV", b"\x01aV\x01bV"),
            (b"\x01aV", b"\x01aV\x01aV"),
            (b"\x01aV\x01at\x01", b"\x01at\x01\x01aV"),
            (b"\x01aF\0\0\0\x06\x01xV\x01yV", b"\x01aF\0\0\0\x06\x01yV\x01xV"),
            (b"\x01aA\0\0\0\x03t\x01V", b"\x01aA\0\0\0\x03Vt\x01"),
            (b"\x01af\0\0\0\0", b"\x01af\x80\0\0\0"),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
    }

    #[test]
    fn the_deepest_table_takes_no_stack() {
        let mut octets = Vec::new();
        for level in 0..crate::limits::TABLE_DEPTH_MAX - 1 {
            let kind = if level == 0 { &b"\x01kL\0\0\0\0\0\0\0\x05"[..] } else { &[] };
            let mut outer = b"\x01kF".to_vec();
            outer.extend_from_slice(&((octets.len() + kind.len()) as u32).to_be_bytes());
            outer.extend_from_slice(&octets);
            outer.extend_from_slice(kind);
            octets = outer;
        }
        let check = move || canonical(&octets).as_table().octets().contains(&b'l');
        assert!(std::thread::Builder::new().stack_size(64 * 1024).spawn(check).unwrap().join().unwrap());
    }

    fn entries(depth: u32) -> BoxedStrategy<Vec<u8>> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(|truth| vec![b't', u8::from(truth) * 3]),
            any::<i64>().prop_map(|number| [&b"L"[..], &number.to_be_bytes()].concat()),
            any::<u16>().prop_map(|number| [&b"u"[..], &number.to_be_bytes()].concat()),
            any::<[u8; 5]>().prop_map(|decimal| [&b"D"[..], &decimal].concat()),
            Just(b"V".to_vec()),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(|text| [
                &b"S"[..],
                &(text.len() as u32).to_be_bytes(),
                &text
            ]
            .concat()),
        ];
        let value = leaf.prop_recursive(depth, 40, 4, |inner| {
            let field = ("[ab]{0,2}", inner.clone()).prop_map(|(key, value)| entry(&key, &value));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|values| nested(b'A', &values.concat())),
                prop::collection::vec(field, 0..4).prop_map(|fields| nested(b'F', &fields.concat())),
            ]
        });
        prop::collection::vec(("[abc]{0,2}", value), 0..6)
            .prop_map(|fields| fields.iter().flat_map(|(key, value)| entry(key, value)).collect())
            .boxed()
    }

    fn entry(key: &str, value: &[u8]) -> Vec<u8> {
        [&[key.len() as u8], key.as_bytes(), value].concat()
    }

    fn nested(kind: u8, inside: &[u8]) -> Vec<u8> {
        [&[kind][..], &(inside.len() as u32).to_be_bytes(), inside].concat()
    }

    /// Writes a table anew by decoding it: an oracle that shares no code with the walk.
    fn rewritten(table: Table<'_>, sorted: bool) -> Vec<u8> {
        let mut entries: Vec<_> = table.iter().collect();
        if sorted {
            entries.sort_by_key(|(key, _)| *key);
        }
        let mut out = TableBuilder::new();
        for (key, value) in entries {
            match value {
                Value::Table(table) => out.put_table(key, Table::from_checked(&rewritten(table, false))),
                Value::Array(array) => {
                    let mut values = ArrayBuilder::new();
                    for value in array.iter() {
                        // A table of one entry carries each value through the same function.
                        let one = TableBuilder::new().put(b"", value).as_table().octets().to_vec();
                        let one = rewritten(Table::from_checked(&one), false);
                        values.push(Table::from_checked(&one).get(b"").unwrap());
                    }
                    out.put_array(key, values.as_array())
                }
                value => out.put(key, value),
            };
        }
        out.into_octets()
    }

    proptest! {
        #[test]
        fn agrees_with_a_table_that_is_decoded_and_written_anew(octets in entries(4)) {
            let table = Table::check(&octets).unwrap();
            let canonical = CanonicalTable::from(table);
            prop_assert_eq!(canonical.as_table().octets(), &*rewritten(table, true));
            prop_assert_eq!(CanonicalTable::from(canonical.as_table()), canonical);
        }

        #[test]
        fn any_octets_end(octets: Vec<u8>) {
            let _ = CanonicalTable::from(Table::from_checked(&octets));
        }
    }
}

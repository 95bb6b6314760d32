//! The macro that makes an enum of methods, its parser and its writer of one table.
//!
//! A row names the variant and its id; then, in parentheses, the types of reserved fields, which
//! are skipped and written as zeros; then the fields with their types, of which at most one run is
//! bits, in brackets:
//!
//! ```text
//! QueuePurge = QUEUE_PURGE (short) { queue: shortstr [no_wait] };
//! ```
//!
//! The types are those of [`crate::field`]. Variants in `by_hand` are parsed elsewhere; arms for
//! their ids and writers follow them.

use crate::frame::{FRAME_END, METHOD};
use crate::method_id::Id;

/// Appends a method frame around the fields that `put` writes.
pub(crate) fn put_method(out: &mut Vec<u8>, channel: u16, id: Id, put: impl FnOnce(&mut Vec<u8>)) {
    let [c1, c2] = channel.to_be_bytes();
    out.extend_from_slice(&[METHOD, c1, c2, 0, 0, 0, 0]);
    let start = out.len();
    out.extend_from_slice(&id.0.to_be_bytes());
    out.extend_from_slice(&id.1.to_be_bytes());
    put(out);
    let size = (out.len() - start) as u32;
    if let Some(field) = out.get_mut(start - 4..start) {
        field.copy_from_slice(&size.to_be_bytes());
    }
    out.push(FRAME_END);
}

/// The Rust type of a field.
macro_rules! field_type {
    (short $a:lifetime) => { u16 };
    (long $a:lifetime) => { u32 };
    (shortstr $a:lifetime) => { &$a [u8] };
    (longstr $a:lifetime) => { &$a [u8] };
    (table $a:lifetime) => { $crate::table::Table<$a> };
}
pub(crate) use field_type;

macro_rules! methods {
    (
        $(#[$meta:meta])*
        pub enum $Enum:ident<$a:lifetime>
        $(by_hand { $($variant:tt)* } ids { $($id_arm:tt)* } put($out:ident) { $($put_arm:tt)* })?
        table {
            $(
                $(#[$doc:meta])*
                $Variant:ident = $id:ident $(($($reserved:ident),*))? $({
                    $($field:ident: $kind:ident),*
                    $([$($bit:ident),*] $($after:ident: $after_kind:ident),*)?
                })?;
            )*
        }
    ) => {
        $(#[$meta])*
        pub enum $Enum<$a> {
            $($($variant)*)?
            $(
                $(#[$doc])*
                $Variant $({
                    $($field: field_type!($kind $a),)*
                    $($($bit: bool,)* $($after: field_type!($after_kind $a),)*)?
                })?,
            )*
        }

        impl<$a> $Enum<$a> {
            /// Class and method id.
            pub fn id(&self) -> Id {
                match self {
                    $($($id_arm)*)?
                    $($Enum::$Variant { .. } => $id,)*
                }
            }

            /// Parses the fields of a method in the table.
            fn fields(id: Id, octets: &$a [u8]) -> Parsed<$a, $Enum<$a>> {
                match id {
                    $($id => {
                        $($(let (octets, _) = read::$reserved(octets)?;)*)?
                        $(
                            $(let (octets, $field) = read::$kind(octets)?;)*
                            $(
                                let (octets, mut bits) = read::bits(octets)?;
                                $(let $bit = bits.take();)*
                                $(let (octets, $after) = read::$after_kind(octets)?;)*
                            )?
                        )?
                        Ok((octets, $Enum::$Variant $({ $($field,)* $($($bit,)* $($after,)*)? })?))
                    })*
                    _ => Err(nom::Err::Failure(Flaw::Unknown)),
                }
            }

            /// Appends the method as a frame. Short strings are cut at 255 octets.
            pub fn put(&self, out: &mut Vec<u8>, channel: u16) {
                put_method(out, channel, self.id(), |out| {
                    $(let $out = &mut *out;)?
                    match *self {
                        $($($put_arm)*)?
                        $($Enum::$Variant $({ $($field,)* $($($bit,)* $($after,)*)? })? => {
                            $($(write::$reserved(out, Default::default());)*)?
                            $(
                                $(write::$kind(out, $field);)*
                                $(
                                    write::bits(out, &[$($bit),*]);
                                    $(write::$after_kind(out, $after);)*
                                )?
                            )?
                        })*
                    }
                });
            }
        }
    };
}
pub(crate) use methods;

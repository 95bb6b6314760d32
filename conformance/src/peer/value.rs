//! Field values of AMQP 0-9-1 as tests see them: octets both ways, and a readable text both ways.

use std::fmt;

/// One value: of a field table (AMQP 0-9-1, 4.2.5.5, with RabbitMQ's letters), or of a method's
/// field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A bare number: a method's integer field. In a table it is sent as `int32`, or `int64` when
    /// it does not fit.
    Number(i128),
    /// Letter `t`.
    Bool(bool),
    /// Letter `b`.
    I8(i8),
    /// Letter `B`.
    U8(u8),
    /// Letter `s`.
    I16(i16),
    /// Letter `u`.
    U16(u16),
    /// Letter `I`.
    I32(i32),
    /// Letter `i`.
    U32(u32),
    /// Letter `l`.
    I64(i64),
    /// Letter `L`.
    U64(u64),
    /// Letter `f`.
    F32(f32),
    /// Letter `d`.
    F64(f64),
    /// Scale and value.
    Decimal(u8, u32),
    /// Letter `S`, or a string of either length in a method.
    Str(Vec<u8>),
    /// Letter `x`.
    Bytes(Vec<u8>),
    /// Letter `A`.
    Array(Vec<Value>),
    /// Letter `T`, seconds since 1970.
    Timestamp(u64),
    /// Letter `F`: names and values in order.
    Table(Vec<(Vec<u8>, Value)>),
    /// Letter `V`.
    Void,
    /// Any letter with any octets after it: what no well-behaved peer would send.
    Raw(u8, Vec<u8>),
}

impl Value {
    /// A string value from text.
    pub fn str(text: &str) -> Value {
        Value::Str(text.as_bytes().to_vec())
    }

    /// Appends the letter and the octets, as inside a table or an array.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Number(n) => match i32::try_from(*n) {
                Ok(small) => Value::I32(small).encode(out),
                Err(_) => Value::I64(*n as i64).encode(out),
            },
            Value::Bool(b) => out.extend([b't', u8::from(*b)]),
            Value::I8(n) => out.extend([b'b', *n as u8]),
            Value::U8(n) => out.extend([b'B', *n]),
            Value::I16(n) => letter(out, b's', &n.to_be_bytes()),
            Value::U16(n) => letter(out, b'u', &n.to_be_bytes()),
            Value::I32(n) => letter(out, b'I', &n.to_be_bytes()),
            Value::U32(n) => letter(out, b'i', &n.to_be_bytes()),
            Value::I64(n) => letter(out, b'l', &n.to_be_bytes()),
            Value::U64(n) => letter(out, b'L', &n.to_be_bytes()),
            Value::F32(n) => letter(out, b'f', &n.to_be_bytes()),
            Value::F64(n) => letter(out, b'd', &n.to_be_bytes()),
            Value::Decimal(scale, n) => {
                out.extend([b'D', *scale]);
                out.extend(n.to_be_bytes());
            }
            Value::Str(s) => long(out, b'S', s),
            Value::Bytes(s) => long(out, b'x', s),
            Value::Array(items) => {
                let mut inner = Vec::new();
                items.iter().for_each(|item| item.encode(&mut inner));
                long(out, b'A', &inner);
            }
            Value::Timestamp(n) => letter(out, b'T', &n.to_be_bytes()),
            Value::Table(pairs) => long(out, b'F', &table_octets(pairs)),
            Value::Void => out.push(b'V'),
            Value::Raw(tag, octets) => letter(out, *tag, octets),
        }
    }
}

fn letter(out: &mut Vec<u8>, tag: u8, octets: &[u8]) {
    out.push(tag);
    out.extend(octets);
}

fn long(out: &mut Vec<u8>, tag: u8, octets: &[u8]) {
    out.push(tag);
    out.extend((octets.len() as u32).to_be_bytes());
    out.extend(octets);
}

/// The pairs of a table without the length in front. Names longer than 255 octets are cut.
pub fn table_octets(pairs: &[(Vec<u8>, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        let name = name.get(..255).unwrap_or(name);
        out.push(name.len() as u8);
        out.extend(name);
        value.encode(&mut out);
    }
    out
}

/// How many tables and arrays are taken apart one within the other; what is deeper stays octets.
const DEPTH: usize = 16;
/// Strings and raw octets above this length are shown as a length and a sum.
const SHOWN: usize = 300;

/// Octets being read; every `take` says what it missed.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// So many octets.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) =
            self.0.split_at_checked(n).ok_or_else(|| format!("{n} octets wanted, {} there", self.0.len()))?;
        self.0 = rest;
        Ok(head)
    }

    /// A big-endian number of so many octets.
    pub fn number(&mut self, octets: usize) -> Result<u64, String> {
        Ok(self.take(octets)?.iter().fold(0, |n, octet| n << 8 | u64::from(*octet)))
    }

    /// A string with one octet of length.
    pub fn shortstr(&mut self) -> Result<Vec<u8>, String> {
        let n = self.number(1)? as usize;
        Ok(self.take(n)?.to_vec())
    }

    /// A string with four octets of length.
    pub fn longstr(&mut self) -> Result<&'a [u8], String> {
        let n = self.number(4)? as usize;
        self.take(n)
    }

    /// A field table.
    pub fn table(&mut self) -> Result<Value, String> {
        self.nested_table(0)
    }

    fn nested_table(&mut self, depth: usize) -> Result<Value, String> {
        let mut inner = Reader(self.longstr()?);
        let mut pairs = Vec::new();
        while !inner.0.is_empty() {
            pairs.push((inner.shortstr()?, inner.value(depth + 1)?));
        }
        Ok(Value::Table(pairs))
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        let tag = self.number(1)? as u8;
        if depth > DEPTH && matches!(tag, b'A' | b'F') {
            return Ok(Value::Raw(tag, self.longstr()?.to_vec()));
        }
        Ok(match tag {
            b't' => Value::Bool(self.number(1)? != 0),
            b'b' => Value::I8(self.number(1)? as i8),
            b'B' => Value::U8(self.number(1)? as u8),
            b's' => Value::I16(self.number(2)? as i16),
            b'u' => Value::U16(self.number(2)? as u16),
            b'I' => Value::I32(self.number(4)? as i32),
            b'i' => Value::U32(self.number(4)? as u32),
            b'l' => Value::I64(self.number(8)? as i64),
            b'L' => Value::U64(self.number(8)?),
            b'f' => Value::F32(f32::from_bits(self.number(4)? as u32)),
            b'd' => Value::F64(f64::from_bits(self.number(8)?)),
            b'D' => Value::Decimal(self.number(1)? as u8, self.number(4)? as u32),
            b'S' => Value::Str(self.longstr()?.to_vec()),
            b'x' => Value::Bytes(self.longstr()?.to_vec()),
            b'T' => Value::Timestamp(self.number(8)?),
            b'F' => self.nested_table(depth)?,
            b'V' => Value::Void,
            b'A' => {
                let mut inner = Reader(self.longstr()?);
                let mut items = Vec::new();
                while !inner.0.is_empty() {
                    items.push(inner.value(depth + 1)?);
                }
                Value::Array(items)
            }
            other => return Err(format!("unknown field letter {other:#04x}")),
        })
    }
}

/// Text of octets: bare when it is a plain word, else in quotes with `\n`, `\r`, `\"`, `\\` and
/// `\xNN`.
pub struct Text<'a>(pub &'a [u8]);

fn plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"._~#*/-+@$:".contains(&octet)
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(word) if !word.is_empty() && self.0.iter().all(|octet| plain(*octet)) => f.write_str(word),
            _ => Quoted(self.0).fmt(f),
        }
    }
}

/// Text of octets, always in quotes.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '"' | '\\' => write!(f, "\\{c}")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
                    c => write!(f, "{c}")?,
                }
            }
            for octet in chunk.invalid() {
                write!(f, "\\x{octet:02x}")?;
            }
        }
        f.write_str("\"")
    }
}

/// Octets as lower-case hexadecimal digits.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Octets that are too many to show.
pub struct Sum<'a>(pub &'a [u8]);

impl fmt::Display for Sum<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let add = |sum: u32, octet: &u8| sum.wrapping_mul(31).wrapping_add(u32::from(*octet));
        write!(f, "of {} octets, sum {:08x}", self.0.len(), self.0.iter().fold(0, add))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(n) => write!(f, "{n}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::I8(n) => write!(f, "int8 {n}"),
            Value::U8(n) => write!(f, "uint8 {n}"),
            Value::I16(n) => write!(f, "int16 {n}"),
            Value::U16(n) => write!(f, "uint16 {n}"),
            Value::I32(n) => write!(f, "int32 {n}"),
            Value::U32(n) => write!(f, "uint32 {n}"),
            Value::I64(n) => write!(f, "int64 {n}"),
            Value::U64(n) => write!(f, "uint64 {n}"),
            Value::F32(n) => write!(f, "float32 {n}"),
            Value::F64(n) => write!(f, "float64 {n}"),
            Value::Decimal(scale, n) => write!(f, "decimal {scale} {n}"),
            Value::Str(s) if s.len() > SHOWN => write!(f, "string {}", Sum(s)),
            Value::Raw(tag, s) if s.len() > SHOWN => write!(f, "raw {} {}", *tag as char, Sum(s)),
            Value::Str(s) => Quoted(s).fmt(f),
            Value::Bytes(s) => write!(f, "bytes {}", Hex(s)),
            Value::Timestamp(n) => write!(f, "time {n}"),
            Value::Void => f.write_str("void"),
            Value::Raw(tag, octets) => write!(f, "raw {} {}", *tag as char, Hex(octets)),
            Value::Array(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Value::Table(pairs) => {
                f.write_str("{")?;
                for (i, (name, value)) in pairs.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}: {value}", Text(name))?;
                }
                f.write_str("}")
            }
        }
    }
}

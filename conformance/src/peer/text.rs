//! Reads values and `field=value` lists from text, as scripts and tests write them.

use super::value::Value;

/// Named fields in the order in which they were written. A name alone is a set bit.
pub type Fields = Vec<(String, Value)>;

/// A place in a text.
pub struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a text.
    pub fn new(text: &'a str) -> Cursor<'a> {
        Cursor { rest: text.trim_start() }
    }

    /// Returns true at the end.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the unread text.
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: char) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn demand(&mut self, token: char) -> Result<(), String> {
        if self.eat(token) {
            return Ok(());
        }
        Err(format!("`{token}` expected before `{}`", self.rest))
    }

    /// The next word, up to white space or one of `=,:{}[]`. Colons inside a word belong to it.
    pub fn word(&mut self) -> &'a str {
        let stop = |(i, c): &(usize, char)| {
            c.is_whitespace() || "=,{}[]\"".contains(*c) || (*c == ':' && self.rest[i + 1..].starts_with([' ', '\n']))
        };
        let end = self.rest.char_indices().find(stop).map_or(self.rest.len(), |(i, _)| i);
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// Skips the space between items.
    pub fn item_end(&mut self) {
        self.skip_space();
    }

    /// The next word with the space after it.
    pub fn item(&mut self) -> &'a str {
        let word = self.word();
        self.skip_space();
        word
    }

    fn quoted(&mut self) -> Result<Vec<u8>, String> {
        self.demand('"')?;
        let mut out = Vec::new();
        let mut chars = self.rest.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[i + 1..];
                    return self.repeated(out);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push(b'\n'),
                    Some('r') => out.push(b'\r'),
                    Some('x') => {
                        let digits = self.rest.get(i + 2..i + 4).unwrap_or("");
                        out.extend(hex(digits)?);
                        chars.nth(1);
                    }
                    Some(other) => out.extend(other.to_string().bytes()),
                    None => break,
                },
                c => out.extend(c.to_string().bytes()),
            }
        }
        Err("a quote is not closed".to_owned())
    }

    /// `"ab"*3` is `ababab`.
    fn repeated(&mut self, text: Vec<u8>) -> Result<Vec<u8>, String> {
        if !self.eat('*') {
            return Ok(text);
        }
        let times = number::<usize>(self.word())?;
        Ok(text.repeat(times))
    }

    /// A string: quoted, or one word.
    pub fn string(&mut self) -> Result<Vec<u8>, String> {
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        Ok(self.word().as_bytes().to_vec())
    }

    /// A value of a method's field: a bare word is a number when it looks like one, else a string.
    fn field(&mut self) -> Result<Value, String> {
        match self.rest.chars().next() {
            Some('{') => self.table(),
            Some('"') => Ok(Value::Str(self.quoted()?)),
            _ => {
                let word = self.word();
                Ok(match (word, word.parse()) {
                    (_, Ok(n)) if word == i128::to_string(&n) => Value::Number(n),
                    ("true", _) => Value::Bool(true),
                    ("false", _) => Value::Bool(false),
                    _ => Value::str(word),
                })
            }
        }
    }

    /// `{name: value, ...}`
    pub fn table(&mut self) -> Result<Value, String> {
        self.demand('{')?;
        let mut pairs = Vec::new();
        loop {
            self.skip_space();
            if self.eat('}') {
                return Ok(Value::Table(pairs));
            }
            let name = self.string()?;
            self.demand(':')?;
            self.skip_space();
            pairs.push((name, self.value()?));
            self.skip_space();
            self.eat(',');
        }
    }

    /// A value with its type in front, as inside a table.
    fn value(&mut self) -> Result<Value, String> {
        match self.rest.chars().next() {
            Some('{') => return self.table(),
            Some('"') => return Ok(Value::Str(self.quoted()?)),
            Some('[') => {
                self.demand('[')?;
                let mut items = Vec::new();
                loop {
                    self.skip_space();
                    if self.eat(']') {
                        return Ok(Value::Array(items));
                    }
                    items.push(self.value()?);
                    self.skip_space();
                    self.eat(',');
                }
            }
            _ => {}
        }
        let kind = self.word();
        self.rest = self.rest.trim_start_matches(' ');
        Ok(match kind {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "void" => Value::Void,
            "int8" => Value::I8(number(self.word())?),
            "uint8" => Value::U8(number(self.word())?),
            "int16" => Value::I16(number(self.word())?),
            "uint16" => Value::U16(number(self.word())?),
            "int32" => Value::I32(number(self.word())?),
            "uint32" => Value::U32(number(self.word())?),
            "int64" => Value::I64(number(self.word())?),
            "uint64" => Value::U64(number(self.word())?),
            "float32" => Value::F32(number(self.word())?),
            "float64" => Value::F64(number(self.word())?),
            "time" => Value::Timestamp(number(self.word())?),
            "decimal" => Value::Decimal(number(self.item())?, number(self.word())?),
            "bytes" => Value::Bytes(hex(self.word())?),
            "raw" => {
                let letter = self.item().bytes().next().ok_or("a letter expected")?;
                Value::Raw(letter, hex(self.word())?)
            }
            "nested" => nested(number(self.item())?, self.word() == "arrays"),
            other => Value::Number(number(other)?),
        })
    }
}

/// A table in a table in a table, or arrays likewise.
fn nested(depth: usize, arrays: bool) -> Value {
    let mut octets: Vec<u8> = Vec::new();
    for _ in 0..depth {
        let mut outer = if arrays { vec![b'A'] } else { vec![1, b'a', b'F'] };
        // Built from the inside, lengths in reverse so that no copy is needed until the end.
        outer.extend((octets.len() as u32).to_be_bytes());
        outer.reverse();
        octets.extend(outer);
    }
    octets.reverse();
    let mut whole = (octets.len() as u32).to_be_bytes().to_vec();
    whole.extend(octets);
    Value::Raw(if arrays { b'A' } else { b'F' }, whole)
}

/// A number in decimal digits.
pub fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("a number expected, not `{word}`"))
}

/// Octets from hexadecimal digits; `00*16` repeats the octets before the star.
pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    let (digits, times) = match text.split_once('*') {
        Some((digits, times)) => (digits, number(times)?),
        None => (text, 1),
    };
    let octet = |i| digits.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let octets: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(octet).collect();
    Ok(octets.ok_or_else(|| format!("hexadecimal digits expected, not `{text}`"))?.repeat(times))
}

/// `queue=q durable arguments={x: int32 1}`.
pub fn fields(text: &str) -> Result<Fields, String> {
    let mut cursor = Cursor::new(text);
    let mut fields = Vec::new();
    while !cursor.is_done() {
        let name = cursor.word().to_owned();
        if name.is_empty() {
            return Err(format!("a field expected before `{}`", cursor.rest));
        }
        let value = match cursor.eat('=') {
            true => cursor.field()?,
            false => Value::Bool(true),
        };
        fields.push((name, value));
        cursor.skip_space();
    }
    Ok(fields)
}

//! Values as RabbitMQ's texts show them: Erlang's `~w`, `~tp`, `~ts` and `~p`.

use std::fmt::{self, Display, Write};

use crate::limits::SHORT_STRING_MAX;

/// Octets as `~w` prints them: `<<1,2,3>>`. Stops where no reply text reaches.
pub(crate) struct Numbers<'a>(pub(crate) &'a [u8]);

impl Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<<")?;
        for (index, octet) in self.0.iter().take(SHORT_STRING_MAX).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{octet}")?;
        }
        f.write_str(">>")
    }
}

/// Octets as `~tp` prints them: quoted where they are printable, numbers where they are not.
pub(crate) struct Pretty<'a>(pub(crate) &'a [u8]);

impl Display for Pretty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latin1 = || self.0.iter().map(|&octet| char::from(octet));
        match std::str::from_utf8(self.0) {
            Ok("") => f.write_str("<<>>"),
            Ok(text) if text.is_ascii() && text.chars().all(is_printable) => quote(f, text.chars(), ""),
            Ok(text) if !text.is_ascii() && text.chars().all(is_printable) => quote(f, text.chars(), "/utf8"),
            _ if latin1().all(is_printable) => quote(f, latin1(), ""),
            _ => Numbers(self.0).fmt(f),
        }
    }
}

/// Octets as `~ts` prints them: UTF-8, or else Latin-1.
pub(crate) struct ErlangText<'a>(pub(crate) &'a [u8]);

impl Display for ErlangText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => self.0.iter().try_for_each(|&octet| f.write_char(octet.into())),
        }
    }
}

/// A float as `~p` prints it: always with a point.
pub(crate) struct Float(pub(crate) f64);

impl Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shortest = format!("{:?}", self.0);
        match shortest.split_once('e') {
            Some((mantissa, exponent)) if !mantissa.contains('.') => write!(f, "{mantissa}.0e{exponent}"),
            _ => f.write_str(&shortest),
        }
    }
}

/// Returns true for what Erlang takes for text while its printable range is Latin-1, its default.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{ff}' | '\u{8}'..='\r' | '\u{1b}')
}

fn quote(f: &mut fmt::Formatter<'_>, chars: impl Iterator<Item = char>, suffix: &str) -> fmt::Result {
    f.write_str("<<\"")?;
    for c in chars {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\u{8}' => f.write_str("\\b")?,
            '\t' => f.write_str("\\t")?,
            '\n' => f.write_str("\\n")?,
            '\u{b}' => f.write_str("\\v")?,
            '\u{c}' => f.write_str("\\f")?,
            '\r' => f.write_str("\\r")?,
            '\u{1b}' => f.write_str("\\e")?,
            other => f.write_char(other)?,
        }
    }
    write!(f, "\"{suffix}>>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_print_as_erlang_prints_them() {
        assert_eq!(Numbers(b"ab").to_string(), "<<97,98>>");
        for (octets, text) in [
            (&b""[..], "<<>>"),
            (b"hello", r#"<<"hello">>"#),
            (b"a\"\\\r\n", r#"<<"a\"\\\r\n">>"#),
            (b"h\xc3\xa9", "<<\"h\u{e9}\"/utf8>>"),
            (b"h\xc8", "<<\"h\u{c8}\">>"),
            (b"h\0", "<<104,0>>"),
            (b"h\x7f", "<<104,127>>"),
            (b"\xe2\x82\xac", "<<226,130,172>>"),
        ] {
            assert_eq!(Pretty(octets).to_string(), text);
        }
    }

    #[test]
    fn floats_and_texts_print_as_erlang_prints_them() {
        assert_eq!(Float(1.0).to_string(), "1.0");
        assert_eq!(Float(1e22).to_string(), "1.0e22");
        assert_eq!(Float(1.5e300).to_string(), "1.5e300");
        assert_eq!(ErlangText(b"\xc8a").to_string(), "\u{c8}a");
    }
}

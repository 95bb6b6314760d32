//! Peer-chosen text for the log: cut and escaped, so that no name forges a line, drives a terminal
//! or fills a disk.

use crate::limits::{LOGGED_NAME, LOGGED_TEXT};
use std::fmt::{self, Formatter, Write};

/// Octets that a peer chose, for the log: the only way for such octets into a line.
///
/// `Display` cuts them at a bound, replaces what is not UTF-8 by U+FFFD and escapes every character
/// that is not printable: control characters, line breaks, bidirectional overrides, characters
/// without width. What is escaped once stays as it is when escaped again. `Debug` does the same
/// between quotation marks.
#[derive(Clone, Copy)]
pub struct Escaped<'a> {
    octets: &'a [u8],
    max: usize,
}

impl<'a> Escaped<'a> {
    /// A name: of a user, queue, exchange, virtual host, client, or mechanism. At most
    /// [`LOGGED_NAME`] octets of it are shown.
    pub fn name(octets: &'a [u8]) -> Self {
        Self { octets, max: LOGGED_NAME }
    }

    /// A sentence that may hold names, such as the reply text of a fault. At most [`LOGGED_TEXT`]
    /// octets of it are shown.
    pub fn text(text: &'a str) -> Self {
        Self { octets: text.as_bytes(), max: LOGGED_TEXT }
    }

    /// Writes the text, with `quote` escaped as well.
    fn escape(&self, quote: Option<char>, f: &mut Formatter<'_>) -> fmt::Result {
        let end = cut(self.octets, self.max);
        for chunk in self.octets.get(..end).unwrap_or_default().utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    _ if Some(character) == quote => write!(f, "\\{character}")?,
                    '\'' | '"' | '\\' => f.write_char(character)?,
                    _ => write!(f, "{}", character.escape_debug())?,
                }
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        if end < self.octets.len() { write!(f, "... ({} octets)", self.octets.len()) } else { Ok(()) }
    }
}

/// Returns how many of `octets` are shown: at most `max`, and only whole characters.
fn cut(octets: &[u8], max: usize) -> usize {
    if octets.len() <= max {
        return octets.len();
    }
    let is_inside = |at: &usize| octets.get(*at).is_some_and(|octet| octet & 0xc0 == 0x80);
    (max.saturating_sub(3)..=max).rev().find(|at| !is_inside(at)).unwrap_or(max)
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.escape(None, f)
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.escape(Some('"'), f)?;
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_drives_a_terminal_or_turns_the_text_is_escaped() {
        for (name, shown) in [
            ("plain name", "plain name"),
            ("Größe 漢字", "Größe 漢字"),
            ("\u{1b}[31mred\u{7}", "\\u{1b}[31mred\\u{7}"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
            ("\u{200b}\u{2066}\u{feff}\u{9b}\u{7f}", "\\u{200b}\\u{2066}\\u{feff}\\u{9b}\\u{7f}"),
            ("it's \"so\" \\n", "it's \"so\" \\n"),
        ] {
            assert_eq!(Escaped::name(name.as_bytes()).to_string(), shown);
        }
        assert_eq!(Escaped::name(b"a\xffb").to_string(), "a\u{fffd}b");
        assert_eq!(format!("{:?}", Escaped::name(b"it's \"so\"\x1b")), "\"it's \\\"so\\\"\\u{1b}\"");
    }

    #[test]
    fn a_long_name_is_cut_between_characters_and_says_its_length() {
        assert_eq!(Escaped::name(&[b'u'; LOGGED_NAME]).to_string(), "u".repeat(LOGGED_NAME));
        let long = Escaped::name(&[b'u'; 131_000]).to_string();
        assert_eq!(long, format!("{}... (131000 octets)", "u".repeat(LOGGED_NAME)));
        let wide = format!("{}漢漢", "u".repeat(LOGGED_NAME - 1));
        let shown = Escaped::name(wide.as_bytes()).to_string();
        assert_eq!(shown, format!("{}... ({} octets)", "u".repeat(LOGGED_NAME - 1), wide.len()));
        assert_eq!(Escaped::name(&[0x80; 200]).to_string().chars().filter(|c| *c == '\u{fffd}').count(), LOGGED_NAME);
    }

    proptest! {
        #[test]
        fn a_line_stays_one_line_of_bounded_length(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
            let shown = Escaped::name(&octets).to_string();
            // The longest escape of one octet is `\u{7f}`.
            prop_assert!(shown.len() <= LOGGED_NAME * 6 + 20);
            prop_assert!(shown.chars().all(|c| !c.is_control()));
        }

        #[test]
        fn escaping_twice_is_escaping_once(text in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
            let once = Escaped::text(&text).to_string();
            prop_assert_eq!(Escaped::text(&once).to_string(), once);
        }
    }
}

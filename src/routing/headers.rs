//! Headers routing: a binding's arguments against a message's headers, which are looked up through
//! a trait.
//!
//! Values are compared as in RabbitMQ 4.x, which compares decoded values without their AMQP types:
//! a short 1 equals a long 1, a long string equals a byte array of the same octets, but an integer
//! never equals a float. A void argument asks only that the header exist. A message's timestamp
//! counts in milliseconds, an argument's in seconds.

use crate::routing::multiset::{self, Multiset};
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use std::fmt::{self, Display, Write};
use std::hash::Hash;

/// One value of a field table, borrowed (AMQP 0-9-1, 4.2.5, with the type letters that RabbitMQ
/// uses).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeaderValue<'a> {
    /// A long string, `S`.
    Text(&'a [u8]),
    /// A byte array, `x`.
    Binary(&'a [u8]),
    /// An integer of any width: `b`, `B`, `s`, `u`, `I`, `i`, `l`, `L`.
    Integer {
        /// The number; an `L` is read as signed, too.
        value: i64,
        /// The type letter: not compared, only named in errors.
        letter: u8,
    },
    /// A `f` or `d`.
    Float {
        /// The number, a `f` widened.
        value: f64,
        /// The type letter: not compared, only named in errors.
        letter: u8,
    },
    /// A boolean, `t`.
    Bool(bool),
    /// No value, `V`.
    Void,
    /// A timestamp, `T`, in seconds since 1970.
    Timestamp(u64),
    /// A decimal, `D`: digits after the point, and the digits.
    Decimal(u8, u32),
    /// An array, `A`: the octets of its elements.
    Array(&'a [u8]),
    /// A table, `F`: the octets of its fields.
    Table(&'a [u8]),
}

/// The headers of a message.
pub trait Headers {
    /// Returns the header `name`; of several with that name, the *last* one.
    fn get(&self, name: &[u8]) -> Option<HeaderValue<'_>>;
}

/// The headers of a message that has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn get(&self, _name: &[u8]) -> Option<HeaderValue<'_>> {
        None
    }
}

/// The value of `x-match`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Match {
    #[default]
    All,
    Any,
}

/// The criteria of a binding to a headers exchange: its arguments, normalised. The default has none
/// and matches every message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Criteria {
    mode: Match,
    /// Sorted by name; without arguments that `x-match` excludes.
    wanted: Box<[(Box<[u8]>, Wanted)]>,
}

/// An argument's value without its AMQP type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Wanted {
    Presence,
    Octets(Box<[u8]>),
    Integer(i128),
    /// The bits: RabbitMQ tells 0.0 from -0.0.
    Float(u64),
    Bool(bool),
    Decimal(u8, u32),
    Array(Box<[u8]>),
    Table(Box<[u8]>),
}

impl Criteria {
    /// Creates criteria from a binding's arguments, in their order.
    ///
    /// `x-match` is `all` (the default), `any`, `all-with-x` or `any-with-x`; the first two exclude
    /// arguments whose name begins with `x-`. Each of several arguments with one name is a
    /// criterion.
    ///
    /// # Errors
    /// [`InvalidMatch`] when the first `x-match` is something else.
    pub fn new<'a>(arguments: impl IntoIterator<Item = (&'a [u8], HeaderValue<'a>)>) -> Result<Self, InvalidMatch> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let x_match = arguments.iter().find(|(name, _)| *name == b"x-match");
        let (mode, with_x) = match x_match {
            None => (Match::All, false),
            Some((_, HeaderValue::Text(text))) => parse_match(text).ok_or_else(|| InvalidMatch::value(text))?,
            Some((_, other)) => return Err(InvalidMatch::type_of(*other)),
        };
        let mut wanted: Vec<_> = arguments
            .into_iter()
            .filter(|(name, _)| if with_x { *name != b"x-match" } else { !name.starts_with(b"x-") })
            .map(|(name, value)| (Box::from(name), Wanted::new(value)))
            .collect();
        wanted.sort_unstable();
        Ok(Criteria { mode, wanted: wanted.into() })
    }

    /// Returns true if a message's headers match. Without arguments `all` matches every message and
    /// `any` none.
    pub fn matches(&self, headers: &dyn Headers) -> bool {
        let mut each = self.wanted.iter().map(|(name, wanted)| headers.get(name).is_some_and(|value| wanted.is(value)));
        match self.mode {
            Match::All => each.all(|matches| matches),
            Match::Any => each.any(|matches| matches),
        }
    }
}

/// Returns the mode, and whether arguments named `x-...` count.
fn parse_match(text: &[u8]) -> Option<(Match, bool)> {
    match text {
        b"all" => Some((Match::All, false)),
        b"any" => Some((Match::Any, false)),
        b"all-with-x" => Some((Match::All, true)),
        b"any-with-x" => Some((Match::Any, true)),
        _ => None,
    }
}

impl Wanted {
    fn new(value: HeaderValue<'_>) -> Self {
        match value {
            HeaderValue::Text(octets) | HeaderValue::Binary(octets) => Wanted::Octets(octets.into()),
            HeaderValue::Integer { value, .. } => Wanted::Integer(value.into()),
            HeaderValue::Float { value, .. } => Wanted::Float(value.to_bits()),
            HeaderValue::Bool(value) => Wanted::Bool(value),
            HeaderValue::Void => Wanted::Presence,
            HeaderValue::Timestamp(seconds) => Wanted::Integer(seconds.into()),
            HeaderValue::Decimal(scale, digits) => Wanted::Decimal(scale, digits),
            HeaderValue::Array(octets) => Wanted::Array(octets.into()),
            HeaderValue::Table(octets) => Wanted::Table(octets.into()),
        }
    }

    fn is(&self, header: HeaderValue<'_>) -> bool {
        match (self, header) {
            (Wanted::Presence, _) => true,
            (Wanted::Octets(wanted), HeaderValue::Text(octets) | HeaderValue::Binary(octets)) => **wanted == *octets,
            (Wanted::Integer(wanted), HeaderValue::Integer { value, .. }) => *wanted == value.into(),
            (Wanted::Integer(wanted), HeaderValue::Timestamp(seconds)) => *wanted == i128::from(seconds) * 1000,
            (Wanted::Float(wanted), HeaderValue::Float { value, .. }) => *wanted == value.to_bits(),
            (Wanted::Bool(wanted), HeaderValue::Bool(value)) => *wanted == value,
            (Wanted::Decimal(scale, digits), HeaderValue::Decimal(s, d)) => (*scale, *digits) == (s, d),
            (Wanted::Array(wanted), HeaderValue::Array(octets)) => **wanted == *octets,
            (Wanted::Table(wanted), HeaderValue::Table(octets)) => **wanted == *octets,
            // In RabbitMQ both are the empty list.
            (
                Wanted::Array(wanted) | Wanted::Table(wanted),
                HeaderValue::Array(octets) | HeaderValue::Table(octets),
            ) => wanted.is_empty() && octets.is_empty(),
            _ => false,
        }
    }
}

/// An invalid `x-match`; displayed as RabbitMQ's reply text for the 406.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMatch(String);

impl InvalidMatch {
    fn value(text: &[u8]) -> Self {
        InvalidMatch(format!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            Term(HeaderValue::Text(text))
        ))
    }

    fn type_of(value: HeaderValue<'_>) -> Self {
        let name = type_name(value);
        InvalidMatch(format!("Invalid x-match field type {name} (value {}); expected longstr", Term(value)))
    }
}

impl Display for InvalidMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidMatch {}

/// Returns RabbitMQ's name for a value's type.
fn type_name(value: HeaderValue<'_>) -> &'static str {
    match value {
        HeaderValue::Text(_) => "longstr",
        HeaderValue::Binary(_) => "binary",
        HeaderValue::Integer { letter, .. } => match letter {
            b'b' => "byte",
            b'B' => "unsignedbyte",
            b's' => "short",
            b'u' => "unsignedshort",
            b'I' => "signedint",
            b'i' => "unsignedint",
            _ => "long",
        },
        HeaderValue::Float { letter: b'f', .. } => "float",
        HeaderValue::Float { .. } => "double",
        HeaderValue::Bool(_) => "bool",
        HeaderValue::Void => "void",
        HeaderValue::Timestamp(_) => "timestamp",
        HeaderValue::Decimal(..) => "decimal",
        HeaderValue::Array(_) => "array",
        HeaderValue::Table(_) => "table",
    }
}

/// A value displayed as Erlang prints it, without nested values.
struct Term<'a>(HeaderValue<'a>);

impl Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            HeaderValue::Text(octets) | HeaderValue::Binary(octets) => write_binary(octets, f),
            HeaderValue::Integer { value, .. } => write!(f, "{value}"),
            HeaderValue::Float { value, .. } => write!(f, "{value:?}"),
            HeaderValue::Bool(value) => write!(f, "{value}"),
            HeaderValue::Void => f.write_str("undefined"),
            HeaderValue::Timestamp(seconds) => write!(f, "{seconds}"),
            HeaderValue::Decimal(scale, digits) => write!(f, "{{{scale},{digits}}}"),
            HeaderValue::Array([]) | HeaderValue::Table([]) => f.write_str("[]"),
            HeaderValue::Array(_) | HeaderValue::Table(_) => f.write_str("[...]"),
        }
    }
}

fn write_binary(octets: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match std::str::from_utf8(octets) {
        Ok("") => f.write_str("<<>>"),
        Ok(text) if !text.chars().any(char::is_control) => {
            f.write_str("<<\"")?;
            for char in text.chars() {
                if matches!(char, '"' | '\\') {
                    f.write_char('\\')?;
                }
                f.write_char(char)?;
            }
            f.write_str(if text.is_ascii() { "\">>" } else { "\"/utf8>>" })
        }
        _ => {
            f.write_str("<<")?;
            for (n, octet) in octets.iter().enumerate() {
                write!(f, "{}{octet}", if n == 0 { "" } else { "," })?;
            }
            f.write_str(">>")
        }
    }
}

/// The bindings of a headers exchange, grouped by criteria, which are tried one after the other.
#[derive(Clone, Debug)]
pub struct HeaderRoutes<T> {
    by_criteria: IndexMap<Criteria, Multiset<T>, RandomState>,
    len: usize,
}

impl<T: Eq + Hash> HeaderRoutes<T> {
    /// Creates a set without bindings.
    pub fn new() -> Self {
        HeaderRoutes { by_criteria: IndexMap::default(), len: 0 }
    }

    /// Adds a binding.
    pub fn bind(&mut self, criteria: Criteria, target: T) {
        self.by_criteria.entry(criteria).or_default().add(target);
        self.len += 1;
    }

    /// Removes a binding, if it exists.
    pub fn unbind(&mut self, criteria: &Criteria, target: T) {
        let Some((at, _, targets)) = self.by_criteria.get_full_mut(criteria) else { return };
        if !targets.remove(target) {
            return;
        }
        self.len -= 1;
        if targets.is_empty() {
            self.by_criteria.swap_remove_index(at);
            multiset::shrink(&mut self.by_criteria);
        }
    }

    /// Calls `each` for the targets of each criteria that match: once for each pair of target and
    /// criteria. Returns the number of criteria tried.
    pub fn route(&self, headers: &dyn Headers, each: &mut dyn FnMut(&T)) -> usize {
        for (criteria, targets) in &self.by_criteria {
            if criteria.matches(headers) {
                targets.each(each);
            }
        }
        self.by_criteria.len()
    }

    /// Returns the number of bindings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no bindings.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Eq + Hash> Default for HeaderRoutes<T> {
    fn default() -> Self {
        HeaderRoutes::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct List(Vec<(Vec<u8>, HeaderValue<'static>)>);

    impl Headers for List {
        fn get(&self, name: &[u8]) -> Option<HeaderValue<'_>> {
            self.0.iter().rev().find(|(held, _)| held == name).map(|(_, value)| *value)
        }
    }

    fn int(value: i64, letter: u8) -> HeaderValue<'static> {
        HeaderValue::Integer { value, letter }
    }

    fn criteria(x_match: &'static [u8], arguments: &[(&'static str, HeaderValue<'static>)]) -> Criteria {
        let arguments = arguments.iter().map(|(name, value)| (name.as_bytes(), *value));
        Criteria::new([(&b"x-match"[..], HeaderValue::Text(x_match))].into_iter().chain(arguments)).unwrap()
    }

    fn headers(list: &[(&str, HeaderValue<'static>)]) -> List {
        List(list.iter().map(|(name, value)| (name.as_bytes().to_vec(), *value)).collect())
    }

    /// Compares an argument `wanted` with a header `held`.
    fn equal(wanted: HeaderValue<'static>, held: HeaderValue<'static>) -> bool {
        criteria(b"all", &[("h", wanted)]).matches(&headers(&[("h", held)]))
    }

    #[test]
    fn types_are_forgotten_but_numbers_stay_apart() {
        let float = |value, letter| HeaderValue::Float { value, letter };
        assert!(equal(int(1, b's'), int(1, b'l')));
        assert!(equal(HeaderValue::Text(b"a"), HeaderValue::Binary(b"a")));
        assert!(equal(float(1.5, b'f'), float(1.5, b'd')));
        assert!(!equal(int(1, b'I'), float(1.0, b'd')));
        assert!(!equal(float(0.0, b'd'), float(-0.0, b'd')));
        assert!(!equal(HeaderValue::Text(b"1"), int(1, b'I')));
        assert!(!equal(HeaderValue::Bool(true), int(1, b'B')));
        assert!(!equal(HeaderValue::Text(b"true"), HeaderValue::Bool(true)));
        assert!(equal(HeaderValue::Decimal(2, 314), HeaderValue::Decimal(2, 314)));
        assert!(!equal(HeaderValue::Decimal(2, 314), HeaderValue::Decimal(3, 314)));
        assert!(equal(HeaderValue::Array(b""), HeaderValue::Table(b"")));
        assert!(!equal(HeaderValue::Array(b"V"), HeaderValue::Table(b"V")));
        assert!(equal(HeaderValue::Array(b"V"), HeaderValue::Array(b"V")));
    }

    #[test]
    fn a_message_counts_its_timestamps_in_milliseconds() {
        assert!(!equal(HeaderValue::Timestamp(5), HeaderValue::Timestamp(5)));
        assert!(equal(HeaderValue::Timestamp(5000), HeaderValue::Timestamp(5)));
        assert!(equal(int(5000, b'l'), HeaderValue::Timestamp(5)));
        assert!(equal(HeaderValue::Timestamp(5), int(5, b'l')));
        assert!(!equal(int(-1, b'l'), HeaderValue::Timestamp(u64::MAX)));
    }

    #[test]
    fn void_asks_for_presence() {
        assert!(equal(HeaderValue::Void, int(1, b'I')));
        assert!(equal(HeaderValue::Void, HeaderValue::Void));
        assert!(equal(HeaderValue::Void, HeaderValue::Table(b"")));
        assert!(!equal(HeaderValue::Text(b""), HeaderValue::Void));
        assert!(!criteria(b"all", &[("h", HeaderValue::Void)]).matches(&NoHeaders));
    }

    #[test]
    fn all_and_any() {
        let both = [("a", int(1, b'I')), ("b", int(2, b'I'))];
        let one = headers(&[("a", int(1, b'I')), ("b", int(3, b'I'))]);
        assert!(!criteria(b"all", &both).matches(&one));
        assert!(criteria(b"any", &both).matches(&one));
        assert!(criteria(b"all", &both).matches(&headers(&both)));
        assert!(!criteria(b"any", &both).matches(&NoHeaders));
    }

    #[test]
    fn without_criteria_all_matches_everything_and_any_nothing() {
        let one = headers(&[("a", HeaderValue::Void)]);
        for (x_match, expected) in [(&b"all"[..], true), (b"all-with-x", true), (b"any", false), (b"any-with-x", false)]
        {
            assert_eq!(criteria(x_match, &[]).matches(&one), expected);
            assert_eq!(criteria(x_match, &[]).matches(&NoHeaders), expected);
        }
        assert!(Criteria::new([]).unwrap().matches(&NoHeaders));
        assert_eq!(Criteria::new([]).unwrap(), Criteria::default());
    }

    #[test]
    fn only_the_x_modes_look_at_x_arguments() {
        let wanted = [("x-a", int(1, b'I'))];
        assert!(criteria(b"all", &wanted).matches(&NoHeaders));
        assert!(!criteria(b"any", &wanted).matches(&headers(&wanted)));
        assert!(!criteria(b"all-with-x", &wanted).matches(&NoHeaders));
        assert!(criteria(b"all-with-x", &wanted).matches(&headers(&wanted)));
        assert!(criteria(b"any-with-x", &wanted).matches(&headers(&wanted)));
        // `x-match` itself is never a criterion, whatever the message carries.
        assert!(criteria(b"all-with-x", &[]).matches(&headers(&[("x-match", int(9, b'I'))])));
    }

    #[test]
    fn of_several_headers_the_last_counts_and_of_several_arguments_each() {
        let twice = [("a", int(1, b'I')), ("a", int(2, b'I'))];
        assert!(!criteria(b"all", &twice).matches(&headers(&twice)));
        assert!(criteria(b"any", &twice).matches(&headers(&twice)));
        assert!(criteria(b"all", &twice[1..]).matches(&headers(&twice)));
        assert!(!criteria(b"all", &twice[..1]).matches(&headers(&twice)));
    }

    #[test]
    fn order_of_arguments_does_not_tell_criteria_apart() {
        let (a, b) = (("a", int(1, b'I')), ("b", HeaderValue::Void));
        assert_eq!(criteria(b"any", &[a, b]), criteria(b"any", &[b, a]));
        assert_ne!(criteria(b"any", &[a, b]), criteria(b"all", &[a, b]));
    }

    #[test]
    fn errors_speak_as_rabbitmq() {
        let text = |value| Criteria::new([(&b"x-match"[..], value)]).unwrap_err().to_string();
        assert_eq!(
            text(HeaderValue::Text(b"some")),
            "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x"
        );
        assert_eq!(text(int(7, b'I')), "Invalid x-match field type signedint (value 7); expected longstr");
        assert_eq!(
            text(HeaderValue::Binary(b"all")),
            "Invalid x-match field type binary (value <<\"all\">>); expected longstr"
        );
        assert_eq!(text(HeaderValue::Bool(true)), "Invalid x-match field type bool (value true); expected longstr");
        assert_eq!(Term(HeaderValue::Text(b"a\"\\")).to_string(), "<<\"a\\\"\\\\\">>");
        assert_eq!(Term(HeaderValue::Text("é".as_bytes())).to_string(), "<<\"é\"/utf8>>");
        assert_eq!(Term(HeaderValue::Text(b"\xff\x01")).to_string(), "<<255,1>>");
        assert_eq!(Term(HeaderValue::Text(b"")).to_string(), "<<>>");
    }

    /// RabbitMQ's algorithm, line for line, over values that need no normalising.
    fn naive(x_match: &str, arguments: &[(String, Option<i64>)], held: &[(String, i64)]) -> bool {
        let with_x = x_match.ends_with("-with-x");
        let mut results = arguments
            .iter()
            .filter(|(name, _)| if with_x { name != "x-match" } else { !name.starts_with("x-") })
            .map(|(name, wanted)| {
                let last = held.iter().rfind(|(held, _)| held == name);
                last.is_some_and(|(_, value)| wanted.is_none_or(|wanted| wanted == *value))
            });
        if x_match.starts_with("all") { results.all(|m| m) } else { results.any(|m| m) }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_rule(
            x_match in prop_oneof![Just("all"), Just("any"), Just("all-with-x"), Just("any-with-x")],
            arguments in proptest::collection::vec(("(x-)?[ab]", proptest::option::of(0i64..3)), 0..4),
            held in proptest::collection::vec(("(x-)?[abc]", 0i64..3), 0..5),
        ) {
            let values = arguments.iter().map(|(name, wanted)| {
                (name.as_bytes(), wanted.map_or(HeaderValue::Void, |value| int(value, b's')))
            });
            let x = [(&b"x-match"[..], HeaderValue::Text(x_match.as_bytes()))];
            let criteria = Criteria::new(values.chain(x)).unwrap();
            let list = List(held.iter().map(|(name, value)| (name.clone().into_bytes(), int(*value, b'l'))).collect());
            prop_assert_eq!(criteria.matches(&list), naive(x_match, &arguments, &held));
        }
    }
}

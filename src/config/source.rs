//! The sources of a configuration: a TOML file and environment variables, merged into one table
//! before it is deserialised.
//!
//! The shipped `config.toml` has every key with a value of its type: thereby a variable's text is
//! parsed.

use crate::config::error::ConfigError::{self, InvalidValue, UnknownKey};
use crate::config::error::Origin;
use serde::Deserialize;
use serde_path_to_error::Segment;
use std::borrow::Cow;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// The prefix of variables.
pub(super) const PREFIX: &str = "LEVERET_";

/// The shipped file, and one user, as it has none.
const TEMPLATE: &str = concat!(
    include_str!("../../config.toml"),
    "\n[[users]]\nname = \"name\"\npassword = \"password\"\nimpersonator = false\n"
);

/// Least similarity, from 0 to 1, of a key that is suggested for an unknown one.
const SIMILAR: f64 = 0.6;

/// A file's table, overridden by variables.
pub(super) struct Sources<'a> {
    path: &'a str,
    text: &'a str,
    table: DeTable<'a>,
    template: DeTable<'static>,
    /// The variables in the table, by index. The span of the value of variable `n` begins at the
    /// text's length + 1 + `n`.
    variables: Vec<&'a str>,
}

impl<'a> Sources<'a> {
    /// Parses a file's text; `path` names it in errors.
    pub(super) fn file(path: &'a str, text: &'a str) -> Result<Sources<'a>, ConfigError> {
        let syntax = |error: toml::de::Error, path, text| {
            let at = error.span().map_or(0, |span| span.start);
            ConfigError::Syntax { place: Origin::in_file(path, text, at), message: one_line(error.message()) }
        };
        let table = DeTable::parse(text).map_err(|error| syntax(error, path, text))?.into_inner();
        let template = DeTable::parse(TEMPLATE).map_err(|error| syntax(error, "config.toml", TEMPLATE))?.into_inner();
        Ok(Sources { path, text, table, template, variables: Vec::new() })
    }

    /// Adds a variable: a number or boolean where the shipped file has one, a list, split at
    /// commas, where it has a list, otherwise a string.
    pub(super) fn variable(&mut self, name: &'a str, text: &'a str) -> Result<(), ConfigError> {
        let upper = name.strip_prefix(PREFIX).unwrap_or(name);
        let Some((path, template)) = find(&self.template, upper) else {
            let known: Vec<String> = keys(&self.template).iter().map(|key| variable_of(key)).collect();
            return Err(UnknownKey {
                place: Origin::Variable(name.to_owned()),
                key: name.to_owned(),
                nearest: nearest(name, &known),
                known,
            });
        };
        if inner(&template).is_some() {
            let (place, key) = (Origin::Variable(name.to_owned()), path.join("."));
            let message = "expected a list of tables, in the configuration file".to_owned();
            return Err(InvalidValue { place, key, message });
        }
        let at = self.text.len() + 1 + self.variables.len();
        self.variables.push(name);
        insert(&mut self.table, &path, Spanned::new(at..at, value_of(text, &template, at)), at);
        Ok(())
    }

    /// Deserialises the table.
    pub(super) fn deserialize<T: Deserialize<'a>>(&self) -> Result<T, ConfigError> {
        let table = Spanned::new(0..0, DeValue::Table(self.table.clone()));
        serde_path_to_error::deserialize(ValueDeserializer::from(table)).map_err(|error| self.error(&error))
    }

    /// Returns the error of a value that contradicts another. `path` has dots between keys and
    /// indices, such as `users.0.name`.
    pub(super) fn invalid(&self, path: &str, found: &str, expected: &str) -> ConfigError {
        let mut steps = path.split('.');
        let first = steps.next().and_then(|key| self.table.get(key));
        let value = steps.fold(first, |value, step| {
            let value = value?.get_ref();
            step.parse::<usize>().map_or_else(|_| value.get(step), |index| value.get(index))
        });
        let place = self.place(value.map_or(0, |value| value.span().start));
        let keys: Vec<&str> = path.split('.').filter(|step| step.parse::<usize>().is_err()).collect();
        InvalidValue { place, key: keys.join("."), message: format!("found {found:?}, expected {expected}") }
    }

    /// Returns the error of a value, or of an unknown key.
    fn error(&self, error: &serde_path_to_error::Error<toml::de::Error>) -> ConfigError {
        let place = self.place(error.inner().span().map_or(0, |span| span.start));
        let path: Vec<&str> = error.path().iter().filter_map(key_of).collect();
        let key = path.join(".");
        match lookup(&self.template, &path) {
            Ok(template) => {
                let message = reworded(error.inner().message());
                // A password may have been written in place of a table.
                let expected = inner(template).and_then(|_| message.split_once(", expected "));
                let message = expected.map_or(message.clone(), |(_, expected)| format!("expected {expected}"));
                InvalidValue { place, key, message }
            }
            Err(known) => UnknownKey { place, nearest: nearest(&key, &keys(&self.template)), key, known },
        }
    }

    /// Returns the file's position, or the variable, at which a span begins.
    fn place(&self, at: usize) -> Origin {
        let variable = at.checked_sub(self.text.len() + 1).and_then(|index| self.variables.get(index));
        variable.map_or_else(|| Origin::in_file(self.path, self.text, at), |name| Origin::Variable((*name).to_owned()))
    }
}

/// Returns the key of a step of a path; none for an element of a list.
fn key_of(segment: &Segment) -> Option<&str> {
    match segment {
        Segment::Map { key } => Some(key),
        _ => None,
    }
}

/// Returns the table of a value, or of the elements of a list.
fn inner<'t>(value: &'t DeValue<'static>) -> Option<&'t DeTable<'static>> {
    match value {
        DeValue::Table(table) => Some(table),
        DeValue::Array(elements) => elements.first()?.get_ref().as_table(),
        _ => None,
    }
}

/// Returns all keys, with their tables in front and dots between.
fn keys(table: &DeTable<'static>) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in table {
        match inner(value.get_ref()) {
            Some(table) => found.extend(keys(table).iter().map(|inner| format!("{}.{inner}", key.get_ref()))),
            None => found.push(key.get_ref().to_string()),
        }
    }
    found
}

/// Returns the shipped file's value at a path, or the keys of the table that lacks it.
fn lookup<'t>(template: &'t DeTable<'static>, path: &[&str]) -> Result<&'t DeValue<'static>, Vec<String>> {
    let (mut table, mut section) = (template, String::new());
    for (depth, key) in path.iter().enumerate() {
        let Some(value) = table.get(*key) else { break };
        match inner(value.get_ref()) {
            Some(within) if depth + 1 < path.len() => table = within,
            _ => return Ok(value.get_ref()),
        }
        section = format!("{section}{key}.");
    }
    Err(table.keys().map(|key| format!("{section}{}", key.get_ref())).collect())
}

/// Returns the variable of a key.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Returns the key of a variable, given without the prefix, and its value in the shipped file.
fn find(template: &DeTable<'static>, upper: &str) -> Option<(Vec<Cow<'static, str>>, DeValue<'static>)> {
    template.iter().find_map(|(key, value)| {
        let key = key.get_ref();
        let rest = upper.strip_prefix(&key.to_ascii_uppercase())?;
        match value.get_ref() {
            DeValue::Table(table) => {
                let (path, value) = find(table, rest.strip_prefix('_')?)?;
                Some(([vec![key.clone()], path].concat(), value))
            }
            value => rest.is_empty().then(|| (vec![key.clone()], value.clone())),
        }
    })
}

/// Returns a variable's text as a value of the template's type, or as a string if it does not
/// parse.
fn value_of<'a>(text: &'a str, template: &DeValue<'_>, at: usize) -> DeValue<'a> {
    let as_text = || DeValue::String(Cow::Borrowed(text));
    match template {
        DeValue::Array(_) => {
            let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
            DeValue::Array(
                elements.map(|element| Spanned::new(at..at, DeValue::String(Cow::Borrowed(element)))).collect(),
            )
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
            let value = DeValue::parse(text.trim()).ok().map(Spanned::into_inner);
            let is_plain =
                |value: &DeValue<'_>| matches!(value, DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_));
            value.filter(is_plain).unwrap_or_else(as_text)
        }
        _ => as_text(),
    }
}

/// Inserts a value at a path. Where the file has no table for it, deserialising reports the file's
/// error.
fn insert<'a>(table: &mut DeTable<'a>, path: &[Cow<'a, str>], value: Spanned<DeValue<'a>>, at: usize) {
    let [key, rest @ ..] = path else { return };
    let named = || Spanned::new(at..at, key.clone());
    if rest.is_empty() {
        table.remove(key.as_ref());
        table.insert(named(), value);
        return;
    }
    if !table.contains_key(key.as_ref()) {
        table.insert(named(), Spanned::new(at..at, DeValue::Table(DeTable::new())));
    }
    if let Some(DeValue::Table(inner)) = table.get_mut(key.as_ref()).map(Spanned::get_mut) {
        insert(inner, rest, value, at);
    }
}

/// Returns the known key most similar to `key`, with or without its table; none if all are too
/// different.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    let similarity = |known: &str| {
        let last = known.rsplit('.').next().unwrap_or(known);
        let alike = strsim::normalized_damerau_levenshtein;
        alike(key, known).max(alike(key, last))
    };
    let scored = known.iter().map(|known| (similarity(known), known));
    let best = scored.filter(|(score, _)| *score >= SIMILAR).max_by(|one, two| one.0.total_cmp(&two.0));
    best.map(|(_, known)| known.clone())
}

/// Returns an error message of serde in the words of this module's messages.
fn reworded(message: &str) -> String {
    let message = one_line(message);
    for prefix in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some(rest) = message.strip_prefix(prefix) {
            let rest = match rest.split_once(", ") {
                Some(("map", rest)) => format!("a table, {rest}"),
                Some(("sequence", rest)) => format!("a list, {rest}"),
                _ => rest.to_owned(),
            };
            return format!("found {rest}");
        }
    }
    message
}

fn one_line(message: &str) -> String {
    message.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde::de::{Deserializer, Error, Visitor, value};

    /// A deserializer that reports the names of a struct's fields.
    struct Fields;

    impl<'de> Deserializer<'de> for Fields {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
            Err(value::Error::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, value::Error> {
            Err(value::Error::custom(fields.join(" ")))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn fields<'de, T: Deserialize<'de>>() -> Vec<String> {
        let fields = T::deserialize(Fields).err().unwrap().to_string();
        let mut fields: Vec<_> = fields.split(' ').map(str::to_owned).collect();
        fields.sort_unstable();
        fields
    }

    #[test]
    fn the_shipped_file_has_every_key() {
        let template = DeTable::parse(TEMPLATE).unwrap().into_inner();
        let names =
            |table: &DeTable<'static>| -> Vec<String> { table.keys().map(|key| key.get_ref().to_string()).collect() };
        let section = |key: &str| names(inner(template.get(key).unwrap().get_ref()).unwrap());
        assert_eq!(names(&template), fields::<crate::config::Config>());
        assert_eq!(section("store"), fields::<crate::config::StoreConfig>());
        assert_eq!(section("users"), fields::<crate::config::UserConfig>());
        assert!(include_str!("../../config.toml").contains("# [[users]]"));
    }

    #[test]
    fn the_nearest_key_is_a_similar_one() {
        let template = DeTable::parse(TEMPLATE).unwrap().into_inner();
        let of = |key: &str| nearest(key, &keys(&template));
        assert_eq!(of("hartbeat").as_deref(), Some("heartbeat"));
        assert_eq!(of("sync_interval").as_deref(), Some("store.sync_interval_ms"));
        assert_eq!(of("users.pasword").as_deref(), Some("users.password"));
        assert_eq!(of("xyzzy"), None);
    }
}

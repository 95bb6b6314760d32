//! Comparison of received lines with those that a case expects.

use crate::case::Alternative;
use crate::glob::glob;
use crate::profile::Profile;

/// How well what was heard fits.
#[derive(Debug, PartialEq)]
pub enum Fit {
    /// Line by line.
    Whole,
    /// But for reply texts: each as expected and as heard.
    ButTexts(Vec<String>),
    /// Something else was heard.
    No,
}

/// The best fit among the alternatives that this profile allows.
pub fn fit(alternatives: &[Alternative], profile: Profile, heard: &[String]) -> Fit {
    let mut best = Fit::No;
    for alternative in allowed(alternatives, profile) {
        match fit_one(&alternative.lines, heard) {
            Fit::Whole => return Fit::Whole,
            Fit::No => {}
            texts => best = texts,
        }
    }
    best
}

/// The alternatives of a profile: those that name it if there are any, and those that name none.
pub fn allowed(alternatives: &[Alternative], profile: Profile) -> impl Iterator<Item = &Alternative> {
    alternatives.iter().filter(move |a| a.profiles.is_empty() || profile.is_named(&a.profiles))
}

fn fit_one(expected: &[String], heard: &[String]) -> Fit {
    if expected.len() != heard.len() {
        return Fit::No;
    }
    let mut texts = Vec::new();
    for (expected, heard) in expected.iter().zip(heard) {
        if glob(expected, heard, "...") {
            continue;
        }
        let (wanted, expected) = without_text(expected);
        let (found, heard) = without_text(heard);
        if wanted.is_empty() || found.is_empty() || !glob(&expected, &heard, "...") {
            return Fit::No;
        }
        texts.push(format!("expected {wanted}, heard {found}"));
    }
    if texts.is_empty() { Fit::Whole } else { Fit::ButTexts(texts) }
}

/// A reply text, and the line without it.
fn without_text(line: &str) -> (String, String) {
    const FIELD: &str = "reply-text=";
    let Some(at) = line.find(FIELD) else { return (String::new(), line.to_owned()) };
    let (before, value) = line.split_at(at + FIELD.len());
    let mut escaped = false;
    let end = match value.strip_prefix('"') {
        Some(inner) => inner.find(|c| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        }),
        None => value.find(' '),
    };
    let quotes = if value.starts_with('"') { 2 } else { 0 };
    let (text, after) = value.split_at(end.map_or(value.len(), |end| end + quotes));
    (text.to_owned(), format!("{before}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split('|').map(str::to_owned).collect()
    }

    fn alternative(profiles: &str, text: &str) -> Alternative {
        Alternative { profiles: profiles.split_whitespace().map(str::to_owned).collect(), lines: lines(text) }
    }

    #[test]
    fn a_text_alone_is_a_softer_fault() {
        let heard = lines("1 channel.close reply-code=404 reply-text=\"a \\\" b\" class-id=1");
        let other = "1 channel.close reply-code=404 reply-text=\"NO\" class-id=1";
        assert_eq!(fit(&[alternative("", &heard[0])], Profile::Spec, &heard), Fit::Whole);
        assert!(matches!(fit(&[alternative("", other)], Profile::Spec, &heard), Fit::ButTexts(_)));
        let code = other.replace("404", "405");
        assert_eq!(fit(&[alternative("", &code)], Profile::Spec, &heard), Fit::No);
        assert_eq!(fit(&[alternative("", &other.replace("class-id=1", "class-id=2"))], Profile::Spec, &heard), Fit::No);
    }

    #[test]
    fn a_guard_hides_an_alternative() {
        let both = [alternative("4", "new"), alternative("3.13 spec", "old")];
        assert_eq!(fit(&both, Profile::Rabbit43, &lines("new")), Fit::Whole);
        assert_eq!(fit(&both, Profile::Rabbit43, &lines("old")), Fit::No);
        assert_eq!(fit(&both, Profile::Spec, &lines("old")), Fit::Whole);
    }
}

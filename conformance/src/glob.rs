//! Patterns in which one mark stands for any text.

/// Matches a text against a pattern, in which `any` stands for any text.
pub fn glob(pattern: &str, text: &str, any: &str) -> bool {
    let mut parts = pattern.split(any);
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn dots_stand_for_anything() {
        for (pattern, text, fits) in [
            ("a...c", "abc", true),
            ("a...", "a", true),
            ("...b...b", "bb", true),
            ("...b...b", "b", false),
            ("a", "ab", false),
        ] {
            assert_eq!(glob(pattern, text, "..."), fits, "{pattern} {text}");
        }
    }
}

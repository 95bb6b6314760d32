//! The list of cases that a broker is known to fail: reading it and holding a run to it. It knows
//! no broker.

use std::path::Path;

use serde::Deserialize;

/// One entry: a case, or with a `*` several, and why it fails.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// A case's id; a `*` stands for any text.
    #[serde(default)]
    id: Option<String>,
    /// Several of them.
    #[serde(default)]
    ids: Vec<String>,
    /// Why: what is not built, or the evidence that the broker is meant to differ.
    pub reason: String,
}

/// A list of known failures.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// In the order of the file.
    #[serde(default)]
    pub known: Vec<Entry>,
}

impl Entry {
    fn patterns(&self) -> impl Iterator<Item = &String> {
        self.id.iter().chain(&self.ids)
    }
}

impl Known {
    /// Reads a list; an entry without a reason is refused.
    pub fn read(path: &Path) -> Result<Known, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let known: Known = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        match known.known.iter().find(|entry| entry.reason.trim().is_empty() || entry.patterns().next().is_none()) {
            Some(entry) => Err(format!("{}: {entry:?} has no id or no reason", path.display())),
            None => Ok(known),
        }
    }

    /// Why a case is known to fail.
    pub fn reason(&self, id: &str) -> Option<&str> {
        let means = |pattern: &String| crate::glob::glob(pattern, id, "*");
        self.known.iter().find(|entry| entry.patterns().any(means)).map(|entry| entry.reason.as_str())
    }

    /// Ids and patterns that mean no case of the suite.
    pub fn idle<'a>(&'a self, ids: &[&str]) -> Vec<&'a str> {
        let idle = |pattern: &&String| !ids.iter().any(|id| crate::glob::glob(pattern, id, "*"));
        self.known.iter().flat_map(Entry::patterns).filter(idle).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_may_mean_several() {
        let text = "[[known]]\nids = [\"ttl.*\", \"tx.a\"]\nreason = \"not built yet\"\n\
            [[known]]\nid = \"qos.b\"\nreason = \"differs\"\n";
        let known: Known = toml::from_str(text).unwrap();
        assert_eq!(known.reason("ttl.x"), Some("not built yet"));
        assert_eq!(known.reason("tx.ab"), None);
        assert_eq!(known.reason("qos.b"), Some("differs"));
        assert_eq!(known.idle(&["ttl.x", "qos.b"]), ["tx.a"]);
    }
}

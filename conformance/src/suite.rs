//! All cases: those that the program carries, or those of a directory.

use std::collections::BTreeSet;
use std::path::Path;

use crate::capabilities::Capabilities;
use crate::case::{Case, parse};

/// Name and text of each file of `cases/`.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cases.rs"));

/// The cases in the program, by file and in their order.
pub fn cases() -> Result<Vec<Case>, String> {
    let files = FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    collect(files)
}

/// The cases of a directory, for who writes them.
pub fn cases_of(directory: &Path) -> Result<Vec<Case>, String> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let (Some(name), Some("case")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) else {
            continue;
        };
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        files.push((name.to_string_lossy().into_owned(), text));
    }
    files.sort();
    collect(files.into_iter())
}

fn collect(files: impl Iterator<Item = (String, String)>) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (name, text) in files {
        cases.extend(parse(&name, &text)?);
    }
    let mut ids = BTreeSet::new();
    for case in &cases {
        if !ids.insert(&case.id) {
            return Err(format!("{} is there twice", case.id));
        }
        if let Some(need) = case.needs.iter().find(|need| !Capabilities::is_known(need)) {
            return Err(format!("{} needs `{need}`, of which nothing is known", case.id));
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_reads_and_claims_something_of_its_own() {
        let mut claims = std::collections::BTreeMap::new();
        for case in super::cases().unwrap() {
            assert!(case.claim.ends_with('.'), "{}: {}", case.id, case.claim);
            if let Some(other) = claims.insert(case.claim, case.id.clone()) {
                panic!("{} claims what {other} claims", case.id);
            }
        }
    }

    #[test]
    fn the_example_of_the_readme_can_be_put_where_it_says() {
        let readme = include_str!("../README.md");
        let example = readme.split("```").find(|block| block.trim_start().starts_with("case ")).unwrap();
        let file = "ack-nack-reject";
        let added = crate::case::parse(file, &format!("area A\n{example}")).unwrap();
        let ids: Vec<String> = super::cases().unwrap().into_iter().map(|case| case.id).collect();
        assert!(readme.contains(&format!("`cases/{file}.case`")) && ids.iter().any(|id| id.starts_with(file)));
        assert!(added.iter().all(|case| !ids.contains(&case.id)));
    }
}

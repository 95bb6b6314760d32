//! The cases as they are written in `cases/*.case`: reading them, and what they must have. It knows
//! no socket.

use crate::profile::Profile;

/// One claim and the steps that show it.
#[derive(Clone, Debug)]
pub struct Case {
    /// `<file>.<id>`; never changes once published.
    pub id: String,
    /// Title of its file, by which the summary groups.
    pub area: String,
    /// One line that says what is true.
    pub claim: String,
    /// A section of the specification, a rule's name in its XML, or a page of RabbitMQ's
    /// documentation.
    pub source: String,
    /// Profiles in which the claim is made; empty means all.
    pub profiles: Vec<String>,
    /// Features that the broker must have: see `capabilities`.
    pub needs: Vec<String>,
    /// Runs with nothing beside it.
    pub alone: bool,
    /// Steps, each with what must be received.
    pub steps: Vec<Step>,
}

/// One line that acts, and what must be heard after it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Number of the line in its file, from 1.
    pub line: usize,
    /// The verb and its operands.
    pub text: String,
    /// Any of these will do. Empty: nothing is said, and nothing may be heard until the next step
    /// that says something.
    pub expected: Vec<Alternative>,
}

/// Lines that may be heard.
#[derive(Clone, Debug, Default)]
pub struct Alternative {
    /// Profiles in which they may; empty means all.
    pub profiles: Vec<String>,
    /// As `play` renders them, with `...` for anything.
    pub lines: Vec<String>,
}

impl Case {
    /// Returns true if a profile makes this claim.
    pub fn belongs_to(&self, profile: Profile) -> bool {
        self.profiles.is_empty() || profile.is_named(&self.profiles)
    }

    /// Matches a pattern of `--only`: a part of the id, or with `*` the whole of it.
    pub fn is_meant(&self, pattern: &str) -> bool {
        if pattern.contains('*') {
            return crate::glob::glob(pattern, &self.id, "*");
        }
        self.id == pattern || self.id.contains(pattern)
    }
}

/// Head of a file, which its cases inherit.
#[derive(Default)]
struct Head {
    area: String,
    source: String,
    profiles: Vec<String>,
    needs: Vec<String>,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn profiles(text: &str) -> Result<Vec<String>, String> {
    let words = words(text);
    match words.iter().find(|word| !Profile::is_known(word)) {
        Some(word) => Err(format!("no profile `{word}`")),
        None => Ok(words),
    }
}

/// Reads one file. Errors name its line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let (mut head, mut cases) = (Head::default(), Vec::<Case>::new());
    for (i, line) in text.lines().enumerate() {
        let at = i + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let done = match line.strip_prefix("case ") {
            Some(title) => begin(file, &head, title).map(|case| cases.push(case)),
            None => match cases.last_mut() {
                Some(case) => case_line(case, at, line),
                None => head_line(&mut head, line),
            },
        };
        done.map_err(|error| format!("{file}.case:{at}: {error}"))?;
    }
    for case in &mut cases {
        finish(case).map_err(|error| format!("{file}.case: {}: {error}", case.id))?;
    }
    Ok(cases)
}

fn head_line(head: &mut Head, line: &str) -> Result<(), String> {
    let (word, rest) = line.split_once(' ').ok_or("a word and a value expected")?;
    match word {
        "area" => head.area = rest.to_owned(),
        "source" => head.source = rest.to_owned(),
        "profiles" => head.profiles = profiles(rest)?,
        "needs" => head.needs = words(rest),
        _ => return Err(format!("`{word}` before the first case")),
    }
    Ok(())
}

fn begin(file: &str, head: &Head, title: &str) -> Result<Case, String> {
    let (id, claim) = title.split_once(": ").ok_or("`case id: claim` expected")?;
    Ok(Case {
        id: format!("{file}.{id}"),
        area: head.area.clone(),
        claim: claim.to_owned(),
        source: head.source.clone(),
        profiles: head.profiles.clone(),
        needs: head.needs.clone(),
        alone: false,
        steps: Vec::new(),
    })
}

fn case_line(case: &mut Case, at: usize, line: &str) -> Result<(), String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if case.steps.is_empty() {
        match word {
            "source" => case.source = rest.to_owned(),
            "profiles" => case.profiles = profiles(rest)?,
            "needs" => case.needs.extend(words(rest)),
            "alone" => case.alone = true,
            _ => {}
        }
        if matches!(word, "source" | "profiles" | "needs" | "alone") {
            return Ok(());
        }
    }
    if !matches!(word, "=" | "or" | "for") {
        case.steps.push(Step { line: at, text: line.to_owned(), expected: Vec::new() });
        return Ok(());
    }
    let expected = &mut case.steps.last_mut().ok_or("an expectation before the first step")?.expected;
    match word {
        "=" => {
            if expected.is_empty() {
                expected.push(Alternative::default());
            }
            if let Some(alternative) = expected.last_mut() {
                alternative.lines.push(rest.trim().to_owned());
            }
        }
        "or" if expected.is_empty() => return Err("`or` before the first expectation".to_owned()),
        "or" => expected.push(Alternative::default()),
        _ => expected.push(Alternative { profiles: profiles(rest)?, lines: Vec::new() }),
    }
    Ok(())
}

/// Completes a case: the needs that follow from its steps are added, and a case without steps or
/// expectations is refused.
fn finish(case: &mut Case) -> Result<(), String> {
    for step in &case.steps {
        let (verb, _) = step.text.split_once(' ').unwrap_or((&step.text, ""));
        let need = match verb {
            "http" | "eventually-http" => "http",
            "restart" => "restart",
            _ => continue,
        };
        if !case.needs.iter().any(|known| known == need) {
            case.needs.push(need.to_owned());
        }
    }
    if case.alone && case.needs.iter().any(|need| need == "restart") {
        return Err("restarts the broker, which all cases that do so await together: it cannot be `alone`".to_owned());
    }
    let says = |step: &Step| !step.expected.is_empty() || judges(&step.text);
    if !case.steps.iter().any(says) {
        return Err("expects nothing, so it cannot fail".to_owned());
    }
    for (what, text) in [("area", &case.area), ("source", &case.source), ("claim", &case.claim)] {
        if text.is_empty() {
            return Err(format!("no {what}"));
        }
    }
    Ok(())
}

/// Returns true if a step can fail by itself.
fn judges(text: &str) -> bool {
    let verb = text.split_whitespace().find(|word| *word != "repeat" && word.parse::<u64>().is_err());
    matches!(verb, Some("ok" | "check" | "elapsed" | "counts" | "rising"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "area Queues\nsource spec queue\n\ncase a: It is so.\n  source rule x\n  needs quorum\n  \
        call 1 queue.declare\n  = one\n  or 4\n";

    #[test]
    fn a_case_inherits_from_its_file() {
        let text = FILE.replace("or 4", "for 4\n  = two\n  or\n  = three");
        let cases = parse("queue", &text).unwrap();
        let case = &cases[0];
        assert_eq!((case.id.as_str(), case.area.as_str(), case.source.as_str()), ("queue.a", "Queues", "rule x"));
        assert_eq!(case.steps[0].line, 7);
        let lines: Vec<_> = case.steps[0].expected.iter().map(|a| a.lines.join("+")).collect();
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(case.steps[0].expected[1].profiles, ["4"]);
        assert!(case.is_meant("queue.a") && case.is_meant("que*") && !case.is_meant("ueu*"));
    }

    #[test]
    fn a_case_that_cannot_fail_is_refused() {
        let error = parse("queue", "area Q\nsource s\ncase a: It.\n  send 1 tx.select\n").unwrap_err();
        assert!(error.contains("cannot fail"), "{error}");
        let error =
            parse("queue", "area Q\nsource s\ncase a: It.\n  alone\n  restart\n  ok 1 tx.select\n").unwrap_err();
        assert!(error.contains("cannot be `alone`"), "{error}");
        assert!(parse("queue", "case a It.\n").is_err());
    }
}

//! The results of a run as data: the shape of the JSON report, from which the other reports are
//! made.

pub mod html;
pub mod junit;
pub mod svg;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::profile::Profile;
use crate::runner::{Outcome, Verdict};
use crate::target::Introduction;

/// One run against one broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Which broker.
    pub broker: Broker,
    /// In the order of the suite.
    pub cases: Vec<Line>,
}

/// The broker of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broker {
    /// Name that the reader knows it by.
    pub name: String,
    /// `product` of its server-properties.
    pub product: String,
    /// `version` of its server-properties.
    pub version: String,
    /// The profile it was held to.
    pub profile: String,
    /// Day of the run, `YYYY-MM-DD`, UTC.
    pub date: String,
}

/// One case of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Stable name.
    pub id: String,
    /// Area of the case.
    pub area: String,
    /// Claim of the case: true if it passes.
    pub claim: String,
    /// Where that is written.
    pub source: String,
    /// `pass`, `fail` or `skipped`.
    pub verdict: String,
    /// Why it failed or was skipped; what was softly wrong.
    pub reason: String,
    /// Milliseconds it took.
    pub ms: u64,
    /// True if the reply texts were as expected; the softer grade.
    pub texts: bool,
    /// Why it is known to fail, if it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub known: Option<String>,
    /// The conversation, if it failed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub conversation: Vec<String>,
}

impl Report {
    /// From what a run found.
    pub fn new(name: &str, introduction: &Introduction, profile: Profile, outcomes: &[Outcome]) -> Report {
        let broker = Broker {
            name: name.to_owned(),
            product: introduction.product.clone(),
            version: introduction.version.clone(),
            profile: profile.to_string(),
            date: today(),
        };
        Report { broker, cases: outcomes.iter().map(line).collect() }
    }

    /// Reads a JSON report.
    pub fn read(path: &Path) -> Result<Report, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The JSON report.
    pub fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| error.to_string())
    }
}

impl Line {
    /// Returns true if this case passed.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass.name()
    }

    /// Returns true if this case was not tried.
    pub fn skipped(&self) -> bool {
        self.verdict == Verdict::Skipped.name()
    }
}

fn line(outcome: &Outcome) -> Line {
    Line {
        id: outcome.case.id.clone(),
        area: outcome.case.area.clone(),
        claim: outcome.case.claim.clone(),
        source: outcome.case.source.clone(),
        verdict: outcome.verdict.name().to_owned(),
        reason: outcome.reason.clone(),
        ms: u64::try_from(outcome.ms).unwrap_or(u64::MAX),
        texts: outcome.texts.is_empty(),
        known: outcome.known.clone(),
        conversation: if outcome.verdict == Verdict::Fail { outcome.talk.clone() } else { Vec::new() },
    }
}

/// `YYYY-MM-DD`, UTC.
fn today() -> String {
    time::OffsetDateTime::now_utc().date().to_string()
}

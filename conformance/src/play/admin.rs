//! The steps that ask the management API of a broker. It knows no frame.

use std::time::{Duration, Instant};

use super::Play;
use crate::peer::PATIENCE;

/// Between two questions that wait for the same answer.
const PAUSE: Duration = Duration::from_millis(50);
/// What a broker's statistics may lag behind.
const LAG: Duration = Duration::from_secs(10);

impl Play<'_> {
    /// `http METHOD PATH [JSON]`: notes the status. What is put is deleted after the case.
    pub(super) fn http(&mut self, text: &str) -> Result<(), String> {
        let (method, rest) = text.split_once(' ').ok_or("`METHOD PATH [JSON]` expected")?;
        let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let body = match body {
            "" => None,
            json => Some(serde_json::from_str(json).map_err(|error| format!("{json}: {error}"))?),
        };
        if method == "PUT" && path.contains(&self.suffix) {
            self.created.push(path.to_owned());
        }
        let (status, answer) = self.stage.target.http(method, path, body.as_ref())?;
        self.talk.note("--", &format!("http {method} {path}: {status} {answer}"));
        self.answer = answer;
        self.note(&format!("http {status}"));
        Ok(())
    }

    /// `json /pointer`: notes a part of the last answer.
    pub(super) fn json(&mut self, pointer: &str) -> Result<(), String> {
        let found = self.answer.pointer(pointer).map_or_else(|| "none".to_owned(), ToString::to_string);
        self.note(&format!("json {found}"));
        Ok(())
    }

    /// `eventually-http PATH POINTER VALUE`: asks until the answer holds the value; notes what it held last.
    pub(super) fn eventually_http(&mut self, text: &str) -> Result<(), String> {
        let mut parts = text.splitn(3, ' ');
        let (Some(path), Some(pointer), Some(wanted)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("`PATH POINTER VALUE` expected".to_owned());
        };
        let deadline = Instant::now() + PATIENCE.max(LAG);
        loop {
            let (_, answer) = self.stage.target.http("GET", path, None)?;
            let found = answer.pointer(pointer).map_or_else(|| "none".to_owned(), ToString::to_string);
            if found == wanted || Instant::now() > deadline {
                self.talk.note("--", &format!("http GET {path}: {pointer} is {found}"));
                self.answer = answer;
                self.note(&format!("json {found}"));
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

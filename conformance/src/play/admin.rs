//! The steps that ask the management API of a broker.

use std::time::{Duration, Instant};

use crate::peer::PATIENCE;
use crate::play::state::Play;

/// Between two questions that wait for the same answer.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest delay of a broker's statistics.
const LAG: Duration = Duration::from_secs(10);

impl Play<'_> {
    /// `http METHOD PATH [JSON]`: notes the status. What is put is deleted after the case.
    pub(super) fn http(&mut self, text: &str) -> Result<(), String> {
        let (method, rest) = text.split_once(' ').ok_or("`METHOD PATH [JSON]` expected")?;
        let (path, body) = path_and_json(rest, &self.stage.target.account.vhost);
        let body = match body {
            "" => None,
            json => Some(serde_json::from_str(json).map_err(|error| format!("{json}: {error}"))?),
        };
        if method == "PUT" && path.contains(&self.suffix) {
            self.created.push(path.clone());
        }
        let (status, answer) = self.stage.target.http(method, &path, body.as_ref())?;
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

    /// `eventually-http PATH POINTER VALUE`: asks until the answer holds the value; notes what it
    /// held last.
    pub(super) fn eventually_http(&mut self, text: &str) -> Result<(), String> {
        let asked = text.find(" /").and_then(|at| text.split_at_checked(at));
        let Some((path, (pointer, wanted))) = asked.and_then(|(path, rest)| Some((path, rest.trim().split_once(' ')?)))
        else {
            return Err("`PATH POINTER VALUE` expected".to_owned());
        };
        let (path, _) = path_and_json(path, &self.stage.target.account.vhost);
        let deadline = Instant::now() + PATIENCE.max(LAG);
        loop {
            let (_, answer) = self.stage.target.http("GET", &path, None)?;
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

/// A path, whose spaces and arrows are escaped (names of connections have them), and what may
/// follow it. The default virtual host stands for that of the URL, as it does in expectations.
fn path_and_json<'a>(text: &'a str, vhost: &str) -> (String, &'a str) {
    let begins = [" {", " ["].iter().filter_map(|token| text.find(token)).min();
    let (path, json) = text.split_at(begins.unwrap_or(text.len()));
    let path = path.trim().replace(' ', "%20").replace('>', "%3E");
    let vhost = escaped(vhost);
    let parts: Vec<&str> = path.split('/').map(|part| if part == "%2F" { &vhost } else { part }).collect();
    (parts.join("/"), json.trim())
}

/// A name as one part of a path.
fn escaped(name: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
    name.bytes()
        .map(|octet| if plain(octet) { char::from(octet).to_string() } else { format!("%{octet:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::path_and_json;

    #[test]
    fn a_path_may_hold_the_name_of_a_connection() {
        assert_eq!(path_and_json("/api/x/a:1 -> b:2", "/"), ("/api/x/a:1%20-%3E%20b:2".to_owned(), ""));
        assert_eq!(path_and_json("/api/x {\"a\": [1]}", "/"), ("/api/x".to_owned(), "{\"a\": [1]}"));
    }

    #[test]
    fn the_default_virtual_host_stands_for_that_of_the_url() {
        for (vhost, path) in [("/", "/api/queues/%2F/a%2Fb"), ("my v/h", "/api/queues/my%20v%2Fh/a%2Fb")] {
            assert_eq!(path_and_json("/api/queues/%2F/a%2Fb", vhost), (path.to_owned(), ""));
        }
    }
}

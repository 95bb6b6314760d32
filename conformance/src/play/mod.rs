//! Plays one case against a broker: does its steps, hears what comes, and says where the two part.

mod admin;
mod confirms;
mod content;
pub mod state;
mod sums;
mod text;
mod wire;

use std::time::{Duration, Instant};

use crate::case::{Case, Step};
use crate::expect::{self, Fit};
use crate::peer::text::{Cursor, number};
use crate::peer::value::Value;
use crate::play::state::{Play, Stage};

/// How a case ended.
#[derive(Debug)]
pub enum Ending {
    /// All was heard as expected, reply texts apart: those are listed.
    Passed {
        /// Each as expected and as heard.
        texts: Vec<String>,
        /// The conversation.
        talk: Vec<String>,
    },
    /// Something else was heard, or a step could not be done.
    Failed(Failure),
}

/// Where and why a case failed.
#[derive(Debug)]
pub struct Failure {
    /// Line in the case's file.
    pub line: usize,
    /// Text of that line.
    pub step: String,
    /// In few words.
    pub why: String,
    /// The conversation up to there.
    pub talk: Vec<String>,
}

/// A case with what was heard after each step, for who writes one.
pub struct Draft {
    /// A step's text and the lines heard.
    pub steps: Vec<(String, Vec<String>)>,
    /// Error that stopped it, if any.
    pub error: Option<String>,
}

/// Plays a case and judges it.
pub fn play(case: &Case, stage: &Stage) -> Ending {
    let mut play = Play::new(stage);
    let ending = play.judge(case);
    play.clean_up();
    ending
}

/// Plays a case and judges nothing.
pub fn draft(case: &Case, stage: &Stage) -> Draft {
    let mut play = Play::new(stage);
    let mut draft = Draft { steps: Vec::new(), error: None };
    for step in &case.steps {
        let done = play.step(&step.text);
        draft.steps.push((step.text.clone(), std::mem::take(&mut play.lines)));
        if let Err(why) = done {
            draft.error = Some(why);
            break;
        }
    }
    play.clean_up();
    draft
}

impl Play<'_> {
    fn judge(&mut self, case: &Case) -> Ending {
        let mut texts = Vec::new();
        for step in &case.steps {
            if let Err(why) = self.step(&step.text) {
                return self.failed(step, why);
            }
            if step.expected.is_empty() {
                continue;
            }
            let heard = std::mem::take(&mut self.lines);
            let expected = self.filled(&step.expected);
            match expect::fit(&expected, self.stage.profile, &heard) {
                Fit::Whole => {}
                Fit::ButTexts(more) => texts.extend(more),
                Fit::No => {
                    let expected: Vec<String> =
                        expect::allowed(&expected, self.stage.profile).map(|a| a.lines.join("\n    ")).collect();
                    let expected = expected.join("\n  or\n    ");
                    let why = format!("expected\n    {expected}\n  heard\n    {}", heard.join("\n    "));
                    return self.failed(step, why);
                }
            }
        }
        if let (Some(step), false) = (case.steps.last(), self.lines.is_empty()) {
            let why = format!("heard what the case says nothing of\n    {}", self.lines.join("\n    "));
            return self.failed(step, why);
        }
        Ending::Passed { texts, talk: self.talk.lines() }
    }

    fn failed(&self, step: &Step, why: String) -> Ending {
        let talk = self.talk.lines();
        Ending::Failed(Failure { line: step.line, step: step.text.clone(), why, talk })
    }

    /// The expectations with what the case has kept so far.
    fn filled(&self, alternatives: &[crate::case::Alternative]) -> Vec<crate::case::Alternative> {
        let vhost = format!("vhost '{}'", self.stage.target.account.vhost);
        let fill = |line: &String| self.with_kept(line).replace(&self.suffix, "~").replace("vhost '/'", &vhost);
        let mut alternatives = alternatives.to_vec();
        for alternative in &mut alternatives {
            alternative.lines = alternative.lines.iter().map(fill).collect();
        }
        alternatives
    }

    fn step(&mut self, text: &str) -> Result<(), String> {
        if let Some(rest) = text.strip_prefix("repeat ") {
            let (times, step) = rest.split_once(' ').ok_or("`repeat N step` expected")?;
            let times: usize = number(times)?;
            return (1..=times).try_for_each(|i| self.step(&step.replace("$i", &i.to_string())));
        }
        let text = self.with_kept(&text.replace('~', &self.suffix));
        let mut cursor = Cursor::new(&text);
        match cursor.item() {
            "conn" => {
                self.current = cursor.item().to_owned();
                Ok(())
            }
            "connect" => self.connect(),
            "login" => {
                self.connect()?;
                if let Err(why) = self.peer()?.login(cursor.rest()) {
                    self.note(&why);
                }
                Ok(())
            }
            "let" => {
                let name = cursor.item().to_owned();
                let value = self.value_of(cursor.rest())?;
                self.kept.push((name, value));
                Ok(())
            }
            "patience" => {
                self.peer()?.patience = Duration::from_secs(number(cursor.item())?);
                Ok(())
            }
            "drop" => {
                self.peers.remove(&self.current);
                Ok(())
            }
            "mark" => {
                self.mark = Instant::now();
                Ok(())
            }
            "elapsed" => self.elapsed(cursor.rest()),
            "pass" => {
                // What is claimed is that nothing happens, or that something has happened, by then.
                std::thread::sleep(Duration::from_millis(number(cursor.item())?));
                Ok(())
            }
            "check" => sums::check(cursor.rest()),
            "show" => {
                self.show(&mut cursor);
                Ok(())
            }
            "closed" => self.closed(cursor.item()),
            "recv" => self.recv(&mut cursor),
            "skip" => self.skip(number(cursor.item())?),
            "unordered" => self.unordered(number(cursor.item())?),
            "msg" => self.messages(&mut cursor),
            "confirmed" => self.confirmed(&mut cursor),
            "counts" => self.counts(&mut cursor),
            "rising" => self.rising(&mut cursor),
            "get" => self.get(&mut cursor),
            "store" => self.store(cursor.rest()),
            "drained" => self.drained(cursor.rest()),
            "eventually" => self.eventually(cursor.rest()),
            "http" => self.http(cursor.rest()),
            "json" => self.json(cursor.rest()),
            "eventually-http" => self.eventually_http(cursor.rest()),
            "restart" => self.restart(),
            verb => self.send(verb, &mut cursor),
        }
    }

    /// `show PATH NAME ...`: notes entries of a table of the last frame, in whatever order it has
    /// them.
    fn show(&mut self, cursor: &mut Cursor<'_>) {
        let path = cursor.item().to_owned();
        let mut line = "show".to_owned();
        for name in cursor.rest().split_whitespace() {
            let value = self.last.at(&format!("{path}/{name}")).map_or_else(|| "none".to_owned(), Value::to_string);
            line += &format!(" {name}={value}");
        }
        self.note(&line);
    }

    /// `LOW..HIGH` milliseconds since `mark`; without HIGH, at least.
    fn elapsed(&self, range: &str) -> Result<(), String> {
        let (low, high) = range.trim().split_once("..").ok_or("`LOW..HIGH` milliseconds expected")?;
        let (low, high) = (number::<u128>(low)?, if high.is_empty() { u128::MAX } else { number(high)? });
        match self.mark.elapsed().as_millis() {
            ms if (low..=high).contains(&ms) => Ok(()),
            ms => Err(format!("took {ms} ms, expected {range} ms")),
        }
    }
}

//! The definition of a fault: a rule that changes the conversation between client and broker.

use super::frame::Unit;
use super::link::{Link, Side};

/// One way of a broker to be wrong.
pub struct Fault {
    /// Short, unique, never changed.
    pub name: &'static str,
    /// A sentence that says what goes wrong.
    pub does: &'static str,
    /// True if it spoils reply texts alone, which is the softer grade.
    pub is_soft: bool,
    rule: Rule,
}

/// Change to the units that pass.
enum Rule {
    /// Methods of one side, names with spaces between them, are changed.
    Edit(Side, &'static str, fn(&mut Unit)),
    /// They are lost.
    Lose(Side, &'static str),
    /// The client's method does not reach the broker and is answered all the same: with this
    /// method.
    Ignore(&'static str, &'static str),
    /// Anything at all.
    Each(fn(&mut Link, Side, Unit)),
}

impl Fault {
    /// The broker's methods are changed.
    pub(super) const fn answer(
        name: &'static str,
        does: &'static str,
        methods: &'static str,
        change: fn(&mut Unit),
    ) -> Fault {
        Fault { name, does, is_soft: false, rule: Rule::Edit(Side::Broker, methods, change) }
    }

    /// The client's methods are changed, as if the broker did not look at what they say.
    pub(super) const fn request(
        name: &'static str,
        does: &'static str,
        methods: &'static str,
        change: fn(&mut Unit),
    ) -> Fault {
        Fault { name, does, is_soft: false, rule: Rule::Edit(Side::Client, methods, change) }
    }

    /// The broker's methods are lost.
    pub(super) const fn silence(name: &'static str, does: &'static str, methods: &'static str) -> Fault {
        Fault { name, does, is_soft: false, rule: Rule::Lose(Side::Broker, methods) }
    }

    /// The client's methods are lost.
    pub(super) const fn deafness(name: &'static str, does: &'static str, methods: &'static str) -> Fault {
        Fault { name, does, is_soft: false, rule: Rule::Lose(Side::Client, methods) }
    }

    /// The client's method is answered and not done.
    pub(super) const fn pretence(
        name: &'static str,
        does: &'static str,
        method: &'static str,
        answer: &'static str,
    ) -> Fault {
        Fault { name, does, is_soft: false, rule: Rule::Ignore(method, answer) }
    }

    /// Whatever it takes.
    pub(super) const fn each(name: &'static str, does: &'static str, rule: fn(&mut Link, Side, Unit)) -> Fault {
        Fault { name, does, is_soft: false, rule: Rule::Each(rule) }
    }

    /// The names that it waits for.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<&'static str> {
        match self.rule {
            Rule::Edit(_, names, _) | Rule::Lose(_, names) => names.split(' ').collect(),
            Rule::Ignore(method, answer) => vec![method, answer],
            Rule::Each(_) => Vec::new(),
        }
    }

    /// Only reply texts are wrong.
    pub(super) const fn soft(self) -> Fault {
        Fault { is_soft: true, ..self }
    }

    /// Plays it on one unit.
    pub(super) fn play(&self, link: &mut Link, from: Side, mut unit: Unit) {
        match self.rule {
            Rule::Edit(side, methods, change) if side == from && unit.is(methods) => {
                change(&mut unit);
                link.pass(from, &unit);
            }
            Rule::Lose(side, methods) if side == from && unit.is(methods) => {}
            Rule::Ignore(method, answer) if from == Side::Client && unit.is(method) => {
                if !unit.has("nowait") {
                    let mut answer = Unit::say(unit.channel(), answer, "");
                    answer.take_fields(&unit);
                    link.tell(&answer);
                }
            }
            Rule::Each(rule) => rule(link, from, unit),
            _ => link.pass(from, &unit),
        }
    }
}

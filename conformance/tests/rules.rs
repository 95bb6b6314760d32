//! RULES.md has a row for every rule of the specification, and each row a case that exists or a
//! reason.

use std::collections::BTreeSet;

use conformance::profile::Profile;

const TABLE: &str = include_str!("../RULES.md");

/// The rules of `amqp0-9-1.xml`, in its order: domain or class, method, field, rule.
const RULES: &[&str] = &[
    "delivery-tag.channel-local",
    "delivery-tag.non-zero",
    "redelivered.implementation",
    "redelivered.hinting",
    "connection.start.protocol-name",
    "connection.start.server-support",
    "connection.start.client-support",
    "connection.start.server-properties.required-fields",
    "connection.start.locales.required-support",
    "connection.start-ok.client-properties.required-fields",
    "connection.start-ok.mechanism.security",
    "connection.start-ok.mechanism.validity",
    "connection.tune.frame-max.minimum",
    "connection.tune-ok.channel-max.upper-limit",
    "connection.tune-ok.frame-max.minimum",
    "connection.tune-ok.frame-max.upper-limit",
    "connection.open.virtual-host.separation",
    "connection.open.virtual-host.security",
    "connection.close.stability",
    "connection.close-ok.reporting",
    "channel.open.state",
    "channel.flow.initial-state",
    "channel.flow.bidirectional",
    "channel.flow.throttling",
    "channel.flow.expected-behaviour",
    "channel.close.stability",
    "channel.close-ok.reporting",
    "exchange.required-types",
    "exchange.recommended-types",
    "exchange.required-instances",
    "exchange.default-exchange",
    "exchange.default-access",
    "exchange.extensions",
    "exchange.declare.minimum",
    "exchange.declare.exchange.reserved",
    "exchange.declare.exchange.syntax",
    "exchange.declare.type.typed",
    "exchange.declare.type.support",
    "exchange.declare.passive.not-found",
    "exchange.declare.passive.equivalent",
    "exchange.declare.durable.support",
    "exchange.delete.exchange.exists",
    "exchange.delete.if-unused.in-use",
    "queue.declare.default-binding",
    "queue.declare.minimum-queues",
    "queue.declare.queue.default-name",
    "queue.declare.queue.reserved",
    "queue.declare.queue.syntax",
    "queue.declare.passive.passive",
    "queue.declare.passive.equivalent",
    "queue.declare.durable.persistence",
    "queue.declare.durable.types",
    "queue.declare.exclusive.types",
    "queue.declare.exclusive.exclusive",
    "queue.declare.auto-delete.pre-existence",
    "queue.bind.duplicates",
    "queue.bind.unique",
    "queue.bind.transient-exchange",
    "queue.bind.durable-exchange",
    "queue.bind.binding-count",
    "queue.bind.queue.queue-known",
    "queue.bind.queue.must-exist",
    "queue.bind.exchange.exchange-existence",
    "queue.bind.exchange.default-exchange",
    "queue.bind.routing-key.direct-exchange-key-matching",
    "queue.unbind.01",
    "queue.unbind.queue.queue-known",
    "queue.unbind.queue.must-exist",
    "queue.unbind.exchange.must-exist",
    "queue.unbind.exchange.default-exchange",
    "queue.purge.02",
    "queue.purge.03",
    "queue.purge.queue.queue-known",
    "queue.purge.queue.must-exist",
    "queue.delete.01",
    "queue.delete.queue.queue-known",
    "queue.delete.queue.must-exist",
    "queue.delete.if-unused.in-use",
    "queue.delete.if-empty.not-empty",
    "basic.01",
    "basic.02",
    "basic.03",
    "basic.04",
    "basic.05",
    "basic.06",
    "basic.07",
    "basic.08",
    "basic.09",
    "basic.10",
    "basic.qos.prefetch-size.01",
    "basic.qos.prefetch-count.01",
    "basic.consume.01",
    "basic.consume.consumer-tag.01",
    "basic.consume.consumer-tag.02",
    "basic.consume.exclusive.01",
    "basic.cancel.01",
    "basic.publish.exchange.must-exist",
    "basic.publish.exchange.default-exchange",
    "basic.publish.exchange.02",
    "basic.publish.exchange.03",
    "basic.publish.mandatory.01",
    "basic.publish.immediate.01",
    "basic.deliver.01",
    "basic.ack.multiple.exists",
    "basic.reject.01",
    "basic.reject.02",
    "basic.reject.03",
    "basic.reject.requeue.01",
    "basic.recover-async.01",
    "basic.recover.01",
    "tx.not multiple queues",
    "tx.not immediate",
    "tx.not mandatory",
    "tx.commit.transacted",
    "tx.rollback.transacted",
];

/// Rule, whom it binds, and the cases or the reason, of each row.
fn rows() -> Vec<(&'static str, &'static str, &'static str)> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let lines = TABLE.lines().filter(|line| line.starts_with("| ")).skip(1);
    lines.map(cells).map(|row| (row[0], row[1], row[2])).collect()
}

/// The names between backticks.
fn named(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_rule_has_a_row_in_the_order_of_the_specification() {
    let rules: Vec<&str> = rows().iter().map(|row| row.0).collect();
    assert_eq!(rules, RULES);
}

#[test]
fn every_row_says_whom_the_rule_binds() {
    for (rule, binds, _) in rows() {
        let (strength, whom) = binds.split_once(", ").unwrap();
        assert!(["MUST", "MUST NOT", "SHOULD", "MAY", "MAY NOT"].contains(&strength), "{rule}: {strength}");
        assert!(["server", "client", "both"].contains(&whom), "{rule}: {whom}");
    }
}

#[test]
fn every_row_names_cases_that_exist_or_gives_a_reason() {
    let cases = conformance::suite::cases().unwrap();
    let ids: BTreeSet<&str> = cases.iter().map(|case| case.id.as_str()).collect();
    for (rule, _, shown) in rows() {
        let cases = named(shown);
        let reason = cases.is_empty() && shown.len() > 20 && shown.ends_with('.');
        assert!(reason || !cases.is_empty(), "{rule} has neither a case nor a reason");
        for case in cases {
            assert!(ids.contains(case), "{rule}: there is no case {case}");
        }
    }
}

#[test]
fn what_the_specification_asks_for_is_asked_for_in_its_profile() {
    let cases = conformance::suite::cases().unwrap();
    let claimed = |id: &&str| cases.iter().any(|case| case.id == *id && case.belongs_to(Profile::Spec));
    for (rule, _, shown) in rows() {
        let ids = named(shown);
        assert!(ids.is_empty() || ids.iter().any(claimed), "{rule}: the profile spec claims none of {ids:?}");
    }
}

#[test]
fn every_rule_that_a_case_gives_as_its_source_exists() {
    for case in conformance::suite::cases().unwrap() {
        if let Some(rule) = case.source.strip_prefix("rule ") {
            assert!(RULES.contains(&rule), "{}: there is no rule {rule}", case.id);
        }
    }
}

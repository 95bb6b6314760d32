//! Random operations of two connections on one broker in memory: after each one the broker is what
//! the model says.

mod model;

use proptest::prelude::*;

/// Mostly one channel, two queues and no odd flags: what is all over the place meets seldom.
fn record() -> impl Strategy<Value = [u8; 4]> {
    let flags = prop_oneof![4 => Just(0u8), 2 => (0u32..8).prop_map(|bit| 1 << bit), 1 => any::<u8>()];
    let names = prop_oneof![5 => 0u8..2, 1 => any::<u8>()];
    let number = prop_oneof![5 => 0u8..3, 1 => any::<u8>()];
    (any::<u8>(), flags, names, number).prop_map(|(op, flags, names, number)| [op, flags, names, number])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1200, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_accounted_for(records in prop::collection::vec(record(), 0..120)) {
        model::world::run(records.into_iter());
    }

    #[test]
    fn any_octets_end_well(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        model::any::run(&octets);
    }
}

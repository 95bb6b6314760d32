//! The seven frames that are coded by hand, beside what amq-protocol takes for the same octets.
//! `cargo bench --bench codec`.

use amq_protocol::frame::generation::gen_frame;
use amq_protocol::frame::parsing::parse_frame;
use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, basic};
use divan::{Bencher, black_box};
use leveret_wire::encode_content::{self, Content, Copied};
use leveret_wire::{frame, method, properties};

fn main() {
    divan::main();
}

const BODY: [u8; 16] = [b'x'; 16];

fn generated(frame: AMQPFrame) -> Vec<u8> {
    gen_frame(&frame)(Vec::new().into()).map(|context| context.into_inner().0).unwrap_or_default()
}

fn publish() -> Vec<u8> {
    let publish =
        basic::Publish { exchange: "".into(), routing_key: "orders".into(), mandatory: false, immediate: false };
    generated(AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))))
}

fn ack() -> Vec<u8> {
    let ack = basic::Ack { delivery_tag: 42, multiple: false };
    generated(AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))))
}

fn head() -> AMQPContentHeader {
    let properties = basic::AMQPProperties::default().with_delivery_mode(2);
    AMQPContentHeader { class_id: 60, body_size: BODY.len() as u64, properties }
}

fn payload(octets: &[u8]) -> &[u8] {
    match frame::scan(black_box(octets), 131_072) {
        Ok(frame::FrameScan::Frame(frame, _)) => frame.payload,
        _ => &[],
    }
}

#[divan::bench(sample_size = 1000)]
fn publish_by_hand(bencher: Bencher<'_, '_>) {
    let octets = publish();
    bencher.bench(|| method::parse(black_box(payload(&octets))).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn publish_by_amq_protocol(bencher: Bencher<'_, '_>) {
    let octets = publish();
    bencher.bench(|| parse_frame(black_box(&octets[..])).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn ack_by_hand(bencher: Bencher<'_, '_>) {
    let octets = ack();
    bencher.bench(|| method::parse(black_box(payload(&octets))).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn ack_by_amq_protocol(bencher: Bencher<'_, '_>) {
    let octets = ack();
    bencher.bench(|| parse_frame(black_box(&octets[..])).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn header_by_hand(bencher: Bencher<'_, '_>) {
    let octets = generated(AMQPFrame::Header(1, head()));
    bencher.bench(|| properties::content_head(black_box(payload(&octets))).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn header_by_amq_protocol(bencher: Bencher<'_, '_>) {
    let octets = generated(AMQPFrame::Header(1, head()));
    bencher.bench(|| parse_frame(black_box(&octets[..])).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn deliver_by_hand(bencher: Bencher<'_, '_>) {
    let content = Content { route: b"\x00\x06orders", properties: b"\x10\x00\x02", body: &BODY };
    let mut out = Vec::with_capacity(1024);
    bencher.bench_local(|| {
        out.clear();
        encode_content::deliver(&mut out, 1, 131_072, black_box(b"tag"), 42, false, content, &mut Copied);
        out.len()
    });
}

#[divan::bench(sample_size = 1000)]
fn deliver_by_amq_protocol(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let deliver = basic::Deliver {
            consumer_tag: black_box("tag").into(),
            delivery_tag: 42,
            redelivered: false,
            exchange: "".into(),
            routing_key: "orders".into(),
        };
        let method = AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)));
        let frames = [method, AMQPFrame::Header(1, head()), AMQPFrame::Body(1, BODY.to_vec())];
        frames.into_iter().map(|frame| generated(frame).len()).sum::<usize>()
    });
}

#[divan::bench(sample_size = 1000)]
fn confirm_by_hand(bencher: Bencher<'_, '_>) {
    let mut out = Vec::with_capacity(64);
    bencher.bench_local(|| {
        out.clear();
        encode_content::ack(&mut out, 1, black_box(42), true);
        out.len()
    });
}

#[divan::bench(sample_size = 1000)]
fn confirm_by_amq_protocol(bencher: Bencher<'_, '_>) {
    bencher.bench(|| {
        generated(AMQPFrame::Method(
            1,
            AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 42, multiple: true })),
        ))
        .len()
    });
}

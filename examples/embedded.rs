//! A broker inside a program, with a lapin client that talks to it: `cargo run --example embedded`.

use futures_lite::StreamExt;
use lapin::options::QueueDeclareOptions;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use leveret::config::{StoreConfig, StoreKind};
use leveret::{Broker, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any free port of this machine; every other key keeps its default.
    // Nothing is to be left of it; without this, what is durable stays in `leveret-data`.
    let store = StoreConfig { kind: StoreKind::Memory, ..Config::default().store };
    let config = Config { bind: vec!["127.0.0.1:0".parse()?], store, ..Config::default() };
    let broker = Broker::start(config).await?;
    let url = format!("amqp://guest:guest@{}/%2f", broker.address());
    println!("listening on {}", broker.address());

    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.queue_declare("hares".into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for name in ["Hazel", "Fiver", "Bigwig"] {
        let properties = BasicProperties::default();
        let sent = channel.basic_publish(
            "".into(),
            "hares".into(),
            BasicPublishOptions::default(),
            name.as_bytes(),
            properties,
        );
        // The first await hands the message over, the second one waits until the broker has taken
        // it.
        sent.await?.await?;
    }

    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume("hares".into(), "reader".into(), options, FieldTable::default()).await?;
    for _ in 0..3 {
        let delivery = consumer.next().await.ok_or("the consumer was cancelled")??;
        println!("received {}", String::from_utf8_lossy(&delivery.data));
        delivery.ack(BasicAckOptions::default()).await?;
    }

    connection.close(200, "done".into()).await?;
    broker.shutdown().await?;
    Ok(())
}

//! Virtual hosts with their exchanges, queues and bindings; users; alarms. Names no frame, session,
//! socket or task.

pub mod access;
pub mod alarms;
mod bindings;
pub mod declared;
pub mod definitions;
pub mod exchange;
pub mod exchanges;
pub mod failed_logins;
pub mod headers;
pub mod names;
pub mod node;
pub mod overview;
pub mod publish;
pub mod publish_batch;
pub mod queues;
mod removal;
pub mod replies;
pub mod resolve;
pub mod resource;
pub mod restore;
pub mod route_cache;
pub mod routing_keys;
pub mod snapshot;
pub mod sweep;
pub mod token;
pub mod topology;
pub mod vhost;

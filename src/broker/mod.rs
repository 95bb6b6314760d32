//! Names to things: virtual hosts with their exchanges, queues and bindings, users, alarms. It knows no frame order, no
//! session, no socket and no task.

pub mod access;
pub mod alarms;
pub mod declared;
pub mod definitions;
pub mod exchanges;
pub mod headers;
pub mod node;
pub mod queues;
pub mod replies;
pub mod resource;
pub mod restore;
pub mod token;
pub mod topology;
pub mod vhost;

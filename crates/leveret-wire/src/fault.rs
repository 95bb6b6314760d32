//! Errors that close a channel or a connection: reply code, reply text, and which of the two they
//! close.

use std::fmt::{self, Display};

use crate::limits::SHORT_STRING_MAX;

/// Reach of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The channel it happened on: `channel.close`.
    Channel,
    /// The whole connection: `connection.close`.
    Connection,
}

/// The reply codes (AMQP 0-9-1 section 1.2), by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub enum Code {
    ContentTooLarge = 311,
    NoRoute = 312,
    NoConsumers = 313,
    ConnectionForced = 320,
    InvalidPath = 402,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The name as RabbitMQ writes it in front of a reply text.
    pub const fn name(self) -> &'static str {
        self.entry().0
    }

    /// Returns what a fault with this code closes unless said otherwise.
    pub const fn reach(self) -> Reach {
        self.entry().1
    }

    const fn entry(self) -> (&'static str, Reach) {
        match self {
            Code::ContentTooLarge => ("CONTENT_TOO_LARGE", Reach::Channel),
            Code::NoRoute => ("NO_ROUTE", Reach::Channel),
            Code::NoConsumers => ("NO_CONSUMERS", Reach::Channel),
            Code::ConnectionForced => ("CONNECTION_FORCED", Reach::Connection),
            Code::InvalidPath => ("INVALID_PATH", Reach::Connection),
            Code::AccessRefused => ("ACCESS_REFUSED", Reach::Channel),
            Code::NotFound => ("NOT_FOUND", Reach::Channel),
            Code::ResourceLocked => ("RESOURCE_LOCKED", Reach::Channel),
            Code::PreconditionFailed => ("PRECONDITION_FAILED", Reach::Channel),
            Code::FrameError => ("FRAME_ERROR", Reach::Connection),
            Code::SyntaxError => ("SYNTAX_ERROR", Reach::Connection),
            Code::CommandInvalid => ("COMMAND_INVALID", Reach::Connection),
            Code::ChannelError => ("CHANNEL_ERROR", Reach::Connection),
            Code::UnexpectedFrame => ("UNEXPECTED_FRAME", Reach::Connection),
            Code::ResourceError => ("RESOURCE_ERROR", Reach::Connection),
            Code::NotAllowed => ("NOT_ALLOWED", Reach::Connection),
            Code::NotImplemented => ("NOT_IMPLEMENTED", Reach::Connection),
            Code::InternalError => ("INTERNAL_ERROR", Reach::Connection),
        }
    }
}

/// The words of a close or a return: at most 255 octets by construction, cut at a character.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplyText(Box<str>);

impl ReplyText {
    /// Cuts what does not fit and marks the cut with `...`, as RabbitMQ does.
    pub fn new(text: &str) -> ReplyText {
        const MARK: &str = "...";
        if text.len() <= SHORT_STRING_MAX {
            return ReplyText(text.into());
        }
        let end = (0..=SHORT_STRING_MAX - MARK.len()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let kept = text.get(..end).unwrap_or_default();
        ReplyText(format!("{kept}{MARK}").into())
    }

    /// The octets, UTF-8, at most 255.
    pub fn as_octets(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The same as text, for the log.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a channel or a connection must be closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Channel or connection that the fault closes.
    pub reach: Reach,
    /// The reply code.
    pub code: Code,
    /// The reply text, with the code's name in front.
    pub text: ReplyText,
    /// Class of the method that failed, or 0.
    pub class: u16,
    /// Id of the method that failed, or 0.
    pub method: u16,
}

impl Fault {
    /// A fault with the code's own reach and the text `NAME - explanation`; class and method are 0.
    #[cold]
    pub fn new(code: Code, explanation: impl Display) -> Fault {
        let text = ReplyText::new(&format!("{} - {explanation}", code.name()));
        Fault { reach: code.reach(), code, text, class: 0, method: 0 }
    }

    /// A fault whose text is the code's name alone, as RabbitMQ sends when a process of its own
    /// fails.
    #[cold]
    pub fn bare(code: Code) -> Fault {
        Fault { reach: code.reach(), code, text: ReplyText::new(code.name()), class: 0, method: 0 }
    }

    /// The same fault, blamed on a method.
    pub fn at(self, class: u16, method: u16) -> Fault {
        Fault { class, method, ..self }
    }

    /// The same fault, taking the connection down.
    pub fn on_connection(self) -> Fault {
        Fault { reach: Reach::Connection, ..self }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.number(), self.text.as_str())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use amq_protocol::protocol::{AMQPHardError, AMQPSoftError};
    use proptest::prelude::*;

    use super::*;

    const ALL: [Code; 18] = [
        Code::ContentTooLarge,
        Code::NoRoute,
        Code::NoConsumers,
        Code::ConnectionForced,
        Code::InvalidPath,
        Code::AccessRefused,
        Code::NotFound,
        Code::ResourceLocked,
        Code::PreconditionFailed,
        Code::FrameError,
        Code::SyntaxError,
        Code::CommandInvalid,
        Code::ChannelError,
        Code::UnexpectedFrame,
        Code::ResourceError,
        Code::NotAllowed,
        Code::NotImplemented,
        Code::InternalError,
    ];

    #[test]
    fn codes_are_those_of_the_protocol() {
        for code in ALL {
            let name = match code.reach() {
                Reach::Channel => AMQPSoftError::from_id(code.number()).map(|error| error.to_string()),
                Reach::Connection => AMQPHardError::from_id(code.number()).map(|error| error.to_string()),
            };
            assert_eq!(name.map(|name| name.replace('-', "_")).as_deref(), Some(code.name()));
        }
    }

    #[test]
    fn text_is_cut_as_rabbitmq_cuts_it() {
        let text = |length: usize| Fault::new(Code::NotFound, "a".repeat(length)).text;
        assert_eq!(text(243).as_str(), format!("NOT_FOUND - {}", "a".repeat(243)));
        assert_eq!(text(244).as_str(), format!("NOT_FOUND - {}...", "a".repeat(240)));
    }

    #[test]
    fn says_where_and_how_far() {
        let fault = Fault::new(Code::NotFound, "no queue 'q' in vhost '/'").at(50, 20);
        assert_eq!((fault.reach, fault.class, fault.method), (Reach::Channel, 50, 20));
        assert_eq!(fault.on_connection().reach, Reach::Connection);
    }

    proptest! {
        #[test]
        fn text_always_fits(explanation in ".{0,400}") {
            let text = Fault::new(Code::PreconditionFailed, &explanation).text;
            prop_assert!(text.as_octets().len() <= SHORT_STRING_MAX);
        }
    }
}

//! Expected behaviour of a run: the specification's, or that of a RabbitMQ release.

use std::fmt;
use std::str::FromStr;

/// Behaviour that a broker is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// AMQP 0-9-1 alone; extensions are skipped.
    Spec,
    /// RabbitMQ 3.13, which stands for the 3.x years.
    Rabbit313,
    /// RabbitMQ 4.2.
    Rabbit42,
    /// RabbitMQ 4.3.
    Rabbit43,
}

impl Profile {
    /// Returns true if one of the words names this profile: `spec`, `rabbitmq` (any), `4` (4.2 and
    /// 4.3), `3.13`, `4.2`, `4.3`.
    pub fn is_named(self, words: &[String]) -> bool {
        words.iter().any(|word| match word.as_str() {
            "spec" => self == Profile::Spec,
            "rabbitmq" => self != Profile::Spec,
            "4" => matches!(self, Profile::Rabbit42 | Profile::Rabbit43),
            "3.13" => self == Profile::Rabbit313,
            "4.2" => self == Profile::Rabbit42,
            "4.3" => self == Profile::Rabbit43,
            _ => false,
        })
    }

    /// Returns true if a word names any profile.
    pub fn is_known(word: &str) -> bool {
        matches!(word, "spec" | "rabbitmq" | "4" | "3.13" | "4.2" | "4.3")
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Profile, String> {
        match name {
            "spec" => Ok(Profile::Spec),
            "rabbitmq-3.13" => Ok(Profile::Rabbit313),
            "rabbitmq-4.2" => Ok(Profile::Rabbit42),
            "rabbitmq-4.3" => Ok(Profile::Rabbit43),
            other => Err(format!("no profile `{other}`: spec, rabbitmq-3.13, rabbitmq-4.2 or rabbitmq-4.3")),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Spec => "spec",
            Profile::Rabbit313 => "rabbitmq-3.13",
            Profile::Rabbit42 => "rabbitmq-4.2",
            Profile::Rabbit43 => "rabbitmq-4.3",
        })
    }
}

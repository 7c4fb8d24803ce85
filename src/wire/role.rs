//! What a client may do in its channel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a client may do in its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It sends lines and gets those of others.
    #[default]
    Both,
    /// It sends lines and gets none.
    Publish,
    /// It gets lines; what it sends is read, counted and thrown away.
    Subscribe,
}

/// A word that names no [`Role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRole;

impl Role {
    /// All roles, as they are listed to people.
    pub const ALL: [Role; 3] = [Role::Both, Role::Publish, Role::Subscribe];

    /// The role's name in options, hello lines and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Both => "both",
            Role::Publish => "publish",
            Role::Subscribe => "subscribe",
        }
    }

    /// Whether what a client of this role sends is published.
    pub const fn publishes(self) -> bool {
        matches!(self, Role::Both | Role::Publish)
    }

    /// Whether a client of this role gets the lines and notices of its channel.
    pub const fn subscribes(self) -> bool {
        matches!(self, Role::Both | Role::Subscribe)
    }

    /// What both of these roles allow; `None` if that is nothing.
    pub fn and(self, other: Role) -> Option<Role> {
        self.narrowed_to(other).or(other.narrowed_to(self))
    }

    /// This role where `asked` is asked for; `None` if that is more than this one allows.
    pub fn narrowed_to(self, asked: Role) -> Option<Role> {
        (self == Role::Both || self == asked).then_some(asked)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Role, UnknownRole> {
        Role::ALL
            .into_iter()
            .find(|role| role.name() == name)
            .ok_or(UnknownRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_is_only_ever_narrowed() {
        use Role::{Both, Publish, Subscribe};
        for asked in Role::ALL {
            assert_eq!(Both.narrowed_to(asked), Some(asked));
            assert_eq!(asked.name().parse(), Ok(asked));
        }
        for (from, to) in [(Publish, Subscribe), (Publish, Both), (Subscribe, Publish)] {
            assert_eq!(from.narrowed_to(to), None);
        }
        assert_eq!(Subscribe.narrowed_to(Subscribe), Some(Subscribe));
        for role in Role::ALL {
            assert_eq!((Both.and(role), role.and(Both)), (Some(role), Some(role)));
            assert_eq!(role.and(role), Some(role));
        }
        assert_eq!(Publish.and(Subscribe), None);
    }
}

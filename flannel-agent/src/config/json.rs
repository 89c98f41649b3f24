//! JSON as Go's decoder reads it: names in any case, later duplicates win, unknown names are ignored.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::error::ConfigError;

/// Members in the order in which they were written.
#[derive(Debug)]
pub(super) struct Object<'a> {
    path: String,
    members: Vec<(String, &'a RawValue)>,
}

/// One member.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    name: String,
    value: &'a RawValue,
}

impl<'a> Object<'a> {
    /// Reads a whole document; `null` is an object without members, as in Go.
    pub(super) fn parse(text: &'a str) -> Result<Self, ConfigError> {
        let document: &RawValue = serde_json::from_str(text).map_err(|e| ConfigError::Json(e.to_string()))?;
        Self::read(document, String::new())
            .map_err(|_wrong_type| ConfigError::NotAnObject { found: shorten(document.get()) })
    }

    fn read(value: &'a RawValue, path: String) -> Result<Self, serde_json::Error> {
        let members = serde_json::from_str::<Option<Members<'a>>>(value.get())?;
        Ok(Self { path, members: members.map(|m| m.0).unwrap_or_default() })
    }

    /// The last member of that name in any case.
    pub(super) fn get(&self, name: &str) -> Option<Member<'a>> {
        let (_, value) = self.members.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        let name = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Some(Member { name, value })
    }
}

impl<'a> Member<'a> {
    /// A nested object; `null` has no members.
    pub(super) fn object(&self) -> Result<Object<'a>, ConfigError> {
        Object::read(self.value, self.name.clone()).map_err(|_wrong_type| self.wrong("an object"))
    }

    /// A string; `None` for `null`.
    pub(super) fn string(&self) -> Result<Option<String>, ConfigError> {
        self.read("a string")
    }

    /// `true` or `false`; `None` for `null`.
    pub(super) fn boolean(&self) -> Result<Option<bool>, ConfigError> {
        self.read("true or false")
    }

    /// A whole number; `None` for `null`. `24.0` is none, as in Go.
    pub(super) fn integer(&self) -> Result<Option<i64>, ConfigError> {
        self.read("a whole number")
    }

    /// A whole number of 0 or more; `None` for `null`.
    pub(super) fn unsigned(&self) -> Result<Option<u64>, ConfigError> {
        self.read("a whole number of 0 or more")
    }

    /// The complaint that this member is not what it should be.
    pub(super) fn wrong(&self, expected: &'static str) -> ConfigError {
        ConfigError::Value { key: self.name.clone(), found: shorten(self.value.get()), expected }
    }

    /// Whether it is `null`.
    pub(super) fn is_null(&self) -> bool {
        self.value.get() == "null"
    }

    fn read<T: Deserialize<'a>>(&self, expected: &'static str) -> Result<Option<T>, ConfigError> {
        serde_json::from_str(self.value.get()).map_err(|_wrong_type| self.wrong(expected))
    }
}

/// The first 60 characters.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 60;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

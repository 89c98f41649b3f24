//! Command lines in the syntax of Go's `flag` package, from a table of flags.

use std::{collections::BTreeMap, fmt};

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Heading under which the usage text shows it.
    pub group: &'static str,
    /// One sentence for the usage text.
    pub help: &'static str,
}

/// What a flag takes, with its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or `=` and a truth value.
    Bool(bool),
    /// A whole number, decimal or with the prefix 0x, 0o, 0b or 0.
    Int(i64),
    /// Text.
    Text(&'static str),
    /// Text, and each repetition adds one.
    List,
}

/// The value of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Text`].
    Text(String),
    /// Of [`Kind::List`].
    List(Vec<String>),
}

/// Where a value comes from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `-name` on the command line.
    Flag(&'static str),
    /// A variable of the environment.
    Variable(String),
}

/// What is wrong with a command line or environment.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum FlagError {
    /// Help was asked for.
    #[error("help requested")]
    Help,
    /// No flag has that name.
    #[error("flag provided but not defined: -{0}{hint}", hint = hint(.1.as_deref()))]
    Unknown(String, Option<String>),
    /// `---x`, `--=x` and the like.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// Nothing follows a flag that takes a value.
    #[error("flag needs an argument: -{0}")]
    Missing(&'static str),
    /// The value cannot be read.
    #[error("invalid value {value:?} for {origin}: {expected}")]
    Invalid {
        /// Where it comes from.
        origin: Origin,
        /// What was given.
        value: String,
        /// What should have been given.
        expected: String,
    },
}

/// What a command line and an environment say, by name of flag; a flag that nobody sets has its default.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    values: BTreeMap<&'static str, Value>,
    origins: BTreeMap<&'static str, Origin>,
    /// Words after the last flag, which nobody reads.
    pub leftovers: Vec<String>,
    /// The flag without value directly before the leftovers, as in `-ip-masq true`.
    pub before_leftovers: Option<&'static str>,
}

/// Reads the words after the program's name, and then the variables `<prefix>NAME` for the flags that are not among
/// them. An empty variable counts as unset.
pub fn parse<'e>(
    table: &'static [Flag],
    args: impl IntoIterator<Item = String>,
    prefix: &str,
    env: impl IntoIterator<Item = (&'e str, &'e str)>,
) -> Result<Matches, FlagError> {
    let mut matches = Matches::default();
    matches.command_line(table, args.into_iter())?;
    matches.environment(table, prefix, &env.into_iter().collect())?;
    Ok(matches)
}

impl Matches {
    /// Whether the command line or the environment sets it.
    pub fn is_set(&self, name: &str) -> bool {
        self.origins.contains_key(name)
    }

    /// Where its value comes from; the flag itself if it has its default.
    pub fn origin(&self, name: &'static str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Flag(name))
    }

    /// Its value, if it is set.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    fn command_line(
        &mut self,
        table: &'static [Flag],
        mut args: impl Iterator<Item = String>,
    ) -> Result<(), FlagError> {
        let mut bare_bool = None;
        while let Some(word) = args.next() {
            if word == "--" {
                self.leftovers = args.collect();
                return Ok(());
            }
            let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
                self.before_leftovers = bare_bool;
                self.leftovers = std::iter::once(word).chain(args).collect();
                return Ok(());
            };
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.starts_with(['-', '=']) {
                return Err(FlagError::Syntax(word));
            }
            let (name, given) = body.split_once('=').map_or((body, None), |(n, v)| (n, Some(v.to_owned())));
            let flag = find(table, name)?;
            bare_bool = None;
            let text = match (given, flag.kind) {
                (Some(text), _) => text,
                (None, Kind::Bool(_)) => {
                    bare_bool = Some(flag.name);
                    "true".to_owned()
                }
                (None, _) => args.next().ok_or(FlagError::Missing(flag.name))?,
            };
            self.set(flag, &text, Origin::Flag(flag.name))?;
        }
        Ok(())
    }

    fn environment(
        &mut self,
        table: &'static [Flag],
        prefix: &str,
        env: &BTreeMap<&str, &str>,
    ) -> Result<(), FlagError> {
        for flag in table.iter().filter(|flag| flag.name != "version") {
            let variable = format!("{prefix}{}", flag.name.replace('-', "_").to_ascii_uppercase());
            match env.get(variable.as_str()) {
                Some(text) if !text.is_empty() && !self.is_set(flag.name) => {
                    self.set(flag, text, Origin::Variable(variable))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, text: &str, origin: Origin) -> Result<(), FlagError> {
        let invalid = |expected: &str| FlagError::Invalid {
            origin: origin.clone(),
            value: text.to_owned(),
            expected: expected.to_owned(),
        };
        let value = match flag.kind {
            Kind::Bool(_) => Value::Bool(boolean(text).ok_or_else(|| invalid("write true or false"))?),
            Kind::Int(_) => Value::Int(integer(text).ok_or_else(|| invalid("write a whole number"))?),
            Kind::Text(_) => Value::Text(text.to_owned()),
            Kind::List => {
                let mut list = match self.values.remove(flag.name) {
                    Some(Value::List(list)) => list,
                    _ => Vec::new(),
                };
                list.push(text.to_owned());
                Value::List(list)
            }
        };
        self.values.insert(flag.name, value);
        self.origins.insert(flag.name, origin);
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag -{name}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

fn find(table: &'static [Flag], name: &str) -> Result<&'static Flag, FlagError> {
    match table.iter().find(|flag| flag.name == name) {
        Some(flag) => Ok(flag),
        None if name == "h" || name == "help" => Err(FlagError::Help),
        None => Err(FlagError::Unknown(name.to_owned(), nearest(table, name))),
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| "; -help lists every flag".to_owned(), |name| format!("; is -{name} meant?"))
}

/// The flag that was probably meant: at most two letters inserted, left out or replaced.
fn nearest(table: &'static [Flag], name: &str) -> Option<String> {
    const TYPOS: usize = 2;
    let (distance, flag) = table.iter().map(|flag| (distance(flag.name, name), flag)).min_by_key(|(d, _)| *d)?;
    (distance <= TYPOS && name.len() > TYPOS).then(|| flag.name.to_owned())
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A truth value in the spellings of Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number as Go's `strconv.ParseInt` reads it with base 0: prefixes, and underscores between digits.
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // An underscore may follow a prefix or a digit, and a digit must follow it.
    let body = if radix == 10 { body } else { body.strip_prefix('_').unwrap_or(body) };
    if body.is_empty() || body.split('_').any(|group| !group.chars().all(|c| c.is_digit(radix)) || group.is_empty()) {
        return None;
    }
    let magnitude = i128::from_str_radix(&body.replace('_', ""), radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

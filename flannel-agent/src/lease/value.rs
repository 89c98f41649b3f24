//! The value of a lease's key: JSON, byte for byte as flannel writes it, and read as tolerantly as flannel does.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Attrs;

/// A value that is no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the value of a lease: {0}")]
pub struct BadValue(String);

impl Attrs {
    /// The text that other nodes read: members in flannel's order, no white space, `PublicIPv6` always there.
    pub fn to_json(&self) -> String {
        let v6 = self.public_ipv6.map_or_else(|| "null".to_owned(), |ip| format!("\"{}\"", v6_text(ip)));
        let head = format!(r#""PublicIP":"{}","PublicIPv6":{v6}"#, self.public_ip);
        let backend = Some(serde_json::Value::from(self.backend_type.as_str()).to_string());
        let backend = backend.filter(|_| !self.backend_type.is_empty());
        let data = |data: &Option<String>| data.as_deref().filter(|data| !data.is_empty()).map(compact);
        let members = [
            ("BackendType", backend),
            ("BackendData", data(&self.backend_data)),
            ("BackendV6Data", data(&self.backend_v6_data)),
        ];
        let members = members.iter().filter_map(|(name, value)| Some(format!(r#","{name}":{}"#, value.as_ref()?)));
        escape_html(&format!("{{{head}{}}}", members.collect::<String>()))
    }

    /// Reads a lease's value: member names in any case, unknown members ignored, the last of two counts; `{}` and `null`
    /// leave everything unset.
    pub fn from_json(value: &[u8]) -> Result<Self, BadValue> {
        let text = String::from_utf8_lossy(value);
        let mut attrs = Self::new(Ipv4Addr::UNSPECIFIED, "");
        if text.trim_matches([' ', '\t', '\r', '\n']) == "null" {
            return Ok(attrs);
        }
        for (name, raw) in members(&text)? {
            attrs.set(&name, &raw)?;
        }
        Ok(attrs)
    }

    fn set(&mut self, name: &str, raw: &RawValue) -> Result<(), BadValue> {
        let bad = |wanted: &str| BadValue(format!("{name} is {}, expected {wanted}", shorten(raw.get())));
        if name.eq_ignore_ascii_case("PublicIP") {
            self.public_ip = string(raw).as_deref().and_then(v4).ok_or_else(|| bad("an IPv4 address"))?;
        } else if name.eq_ignore_ascii_case("PublicIPv6") {
            self.public_ipv6 = match raw.get() {
                "null" => None,
                _ => Some(string(raw).as_deref().and_then(v6).ok_or_else(|| bad("an IPv6 address or null"))?),
            };
        } else if name.eq_ignore_ascii_case("BackendType") {
            if raw.get() != "null" {
                self.backend_type = string(raw).ok_or_else(|| bad("a string"))?;
            }
        } else if name.eq_ignore_ascii_case("BackendData") {
            self.backend_data = Some(compact(raw.get()));
        } else if name.eq_ignore_ascii_case("BackendV6Data") {
            self.backend_v6_data = Some(compact(raw.get()));
        }
        Ok(())
    }
}

/// The members of a JSON object in the order they stand, duplicates included.
fn members(text: &str) -> Result<Vec<(String, Box<RawValue>)>, BadValue> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, Box<RawValue>)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let members = json.deserialize_map(Members).map_err(|error| BadValue(format!("{error} in {}", shorten(text))))?;
    json.end().map_err(|error| BadValue(format!("{error} in {}", shorten(text))))?;
    Ok(members)
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn v4(text: &str) -> Option<Ipv4Addr> {
    match text.parse().ok()? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped(),
    }
}

fn v6(text: &str) -> Option<Ipv6Addr> {
    match text.parse().ok()? {
        IpAddr::V4(ip) => Some(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => Some(ip),
    }
}

/// A mapped address is written as the IPv4 address it stands for.
fn v6_text(ip: Ipv6Addr) -> String {
    ip.to_ipv4_mapped().map_or_else(|| ip.to_string(), |ip| ip.to_string())
}

/// Enough of a text to recognise it in a log line.
fn shorten(text: &str) -> String {
    const ENOUGH: usize = 80;
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// JSON text without white space between its tokens; numbers, escapes and the order of members stay as they are.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|c| {
            if in_string {
                (in_string, escaped) = (escaped || *c != '"', !escaped && *c == '\\');
                return true;
            }
            in_string = *c == '"';
            !matches!(c, ' ' | '\t' | '\r' | '\n')
        })
        .collect()
}

/// Escapes what Go's encoder escapes for the sake of HTML and JavaScript. In compact JSON these occur in strings only.
fn escape_html(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Read, and what is written again.
    fn check(json: &str, again: &str) {
        let attrs = Attrs::from_json(json.as_bytes()).unwrap();
        assert_eq!(attrs.to_json(), again, "{json}");
        assert_eq!(Attrs::from_json(again.as_bytes()).as_ref(), Ok(&attrs), "{again}");
    }

    #[test]
    fn values_stay_as_they_are() {
        for json in [
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#,
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1"}"#,
            r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"host-gw"}"#,
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1","BackendType":"wireguard","BackendData":{"PublicKey":"a+/=","Port":51820},"BackendV6Data":{"Port":51821}}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendData":null}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"extension","BackendData":"a \"b\\"}"#,
        ] {
            check(json, json);
        }
    }

    #[test]
    fn values_are_read_tolerantly() {
        let unset = r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#;
        check("{}", unset);
        check(" null\n", unset);
        check(r#"{"BackendType":null,"publicipv6":null}"#, unset);
        check(r#"{"publicip":"1.1.1.1","PUBLICIP":"::ffff:1.2.3.4"}"#, r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
        check(r#"{"PublicIP":"1.1.1.1","PublicIPv6":"9.9.9.9"}"#, r#"{"PublicIP":"1.1.1.1","PublicIPv6":"9.9.9.9"}"#);
        check(
            "{ \"PublicIP\" : \"1.2.3.4\",\n\t\"BackendData\": { \"VtepMAC\" : \"a: b\", \"n\":[1.0, 2e5] }, \"Other\": [{}] }",
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendData":{"VtepMAC":"a: b","n":[1.0,2e5]}}"#,
        );
    }

    #[test]
    fn html_is_escaped() {
        let attrs =
            Attrs { backend_data: Some("\"<a>&\u{2028}\"".into()), ..Attrs::new([1, 2, 3, 4].into(), "<\"x\">") };
        assert_eq!(
            attrs.to_json(),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"\u003c\"x\"\u003e","BackendData":"\u003ca\u003e\u0026\u2028"}"#
        );
    }

    #[test]
    fn values_that_are_no_leases() {
        for json in [
            r#"{"PublicIP":null}"#,
            r#"{"PublicIP":7}"#,
            r#"{"PublicIP":"2001:db8::1"}"#,
            r#"{"PublicIP":""}"#,
            r#"{"PublicIP":"01.2.3.4"}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":"x"}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":1}"#,
            r#"{"PublicIP":"1.2.3.4"} x"#,
            r#"{"PublicIP":"1.2.3.4""#,
            "[]",
            "",
            "garbage",
            "\u{fffd}",
        ] {
            assert!(Attrs::from_json(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Attrs::from_json(b"\xff\xfe{}").is_err());
        let error = Attrs::from_json(br#"{"PublicIP":"2001:db8::1"}"#).unwrap_err().to_string();
        assert_eq!(error, r#"not the value of a lease: PublicIP is "\"2001:db8::1\"", expected an IPv4 address"#);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ip: u32, v6: Option<u128>, backend: String, data: Option<String>) {
            let attrs = Attrs {
                public_ip: ip.into(),
                public_ipv6: v6.map(Ipv6Addr::from),
                backend_type: backend,
                backend_data: data.map(|data| escape_html(&serde_json::Value::from(data).to_string())),
                backend_v6_data: None,
            };
            prop_assert_eq!(Attrs::from_json(attrs.to_json().as_bytes()), Ok(attrs));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            Attrs::from_json(&bytes).ok();
        }
    }
}

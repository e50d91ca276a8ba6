//! Spans of time as Kubernetes' configuration files have them: `30s`, `1m30s`, `250ms`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

const NANOS_A_SECOND: i128 = 1_000_000_000;

/// Units, the longest first, and their nanoseconds.
const UNITS: [(&str, i128); 8] = [
    ("h", 3600 * NANOS_A_SECOND),
    ("m", 60 * NANOS_A_SECOND),
    ("s", NANOS_A_SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ns", 1),
];

/// A span of time, perhaps negative: whether that makes sense is said with the field's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(in crate::agent) struct Span {
    nanos: i64,
}

impl Span {
    pub(super) const ZERO: Self = Self { nanos: 0 };

    pub(super) const fn seconds(seconds: i64) -> Self {
        Self {
            nanos: seconds * NANOS_A_SECOND as i64,
        }
    }

    /// As long a time; none at all if it is negative.
    pub(in crate::agent) fn duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos).unwrap_or(0))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a span of time, such as 30s, 1m30s or 24h");
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let sign = if text.starts_with('-') { -1 } else { 1 };
        if unsigned == "0" {
            return Ok(Self::ZERO);
        }
        let nanos = parts(unsigned).ok_or_else(wrong)?;
        let nanos = i64::try_from(sign * nanos).map_err(|_| wrong())?;
        Ok(Self { nanos })
    }
}

/// The sum of all `number unit`; none if there is anything else, or nothing.
fn parts(mut text: &str) -> Option<i128> {
    let mut sum = 0_i128;
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let number = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (digits, rest) = text.split_at(number);
        let end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(scaled(digits, *scale)?)?;
        text = rest;
    }
    Some(sum)
}

/// A decimal number of units in nanoseconds; what is finer is cut off.
fn scaled(digits: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let number = |digits: &str| match digits {
        "" => Some(0),
        digits => digits.parse::<i128>().ok(),
    };
    // Nobody needs more digits than a nanosecond has.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = number(fraction)?.checked_mul(scale)? / 10_i128.pow(fraction.len() as u32);
    number(whole)?.checked_mul(scale)?.checked_add(part)
}

impl fmt::Display for Span {
    /// As Go prints it: `1h0m0s`, `1m30s`, `1.5s`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.nanos).abs();
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < NANOS_A_SECOND {
            let units = [("ms", 1_000_000), ("µs", 1_000), ("ns", 1)];
            let fits = units.iter().find(|(_, scale)| nanos >= *scale);
            return fits.map_or(Ok(()), |(unit, scale)| {
                write!(f, "{}{unit}", decimal(nanos, *scale))
            });
        }
        let minutes = nanos / (60 * NANOS_A_SECOND);
        let seconds = decimal(nanos % (60 * NANOS_A_SECOND), NANOS_A_SECOND);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{seconds}s"),
            (0, minutes) => write!(f, "{minutes}m{seconds}s"),
            (hours, minutes) => write!(f, "{hours}h{minutes}m{seconds}s"),
        }
    }
}

/// `nanos` in units of `scale`, with no digit too many.
fn decimal(nanos: i128, scale: i128) -> String {
    let width = scale.ilog10() as usize;
    let fraction = format!("{:0width$}", nanos % scale);
    match fraction.trim_end_matches('0') {
        "" => (nanos / scale).to_string(),
        fraction => format!("{}.{fraction}", nanos / scale),
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_printed_as_go_does() {
        let rows = [
            ("0", "0s"),
            ("0s", "0s"),
            ("30s", "30s"),
            ("1m", "1m0s"),
            ("90s", "1m30s"),
            ("24h", "24h0m0s"),
            ("2h22m", "2h22m0s"),
            ("1.5s", "1.5s"),
            (".5m", "30s"),
            ("250ms", "250ms"),
            ("1500us", "1.5ms"),
            ("7µs", "7µs"),
            ("1ns", "1ns"),
            ("-1m30s", "-1m30s"),
        ];
        for (text, printed) in rows {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), printed, "{text}");
            assert_eq!(printed.parse(), Ok(span), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "-",
            "5",
            "s",
            "1x",
            "1.2.3s",
            "1h-5m",
            "1 s",
            "99999999999h",
            ".s",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

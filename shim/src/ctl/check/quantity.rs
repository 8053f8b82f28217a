//! Kubernetes' quantities: `500m`, `1.5`, `512Mi`, `1e3` (apimachinery's resource.Quantity).

const SUFFIXES: [(&str, i128, i128); 16] = [
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
    ("n", 1, 1_000_000_000),
    ("u", 1, 1_000_000),
    ("m", 1, 1000),
    ("k", 1000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("E", 1_000_000_000_000_000_000, 1),
    ("", 1, 1),
];

/// The quantity in thousandths, rounded up as the kubelet rounds; `None` for what is none, is negative or is beyond
/// all bounds.
pub(super) fn millis(text: &str) -> Option<i64> {
    let (number, up, down) = match exponent(text) {
        Some((number, power)) if power >= 0 => (number, 10i128.checked_pow(power.unsigned_abs())?, 1),
        Some((number, power)) => (number, 1, 10i128.checked_pow(power.unsigned_abs())?),
        None => SUFFIXES.iter().find_map(|(suffix, up, down)| Some((text.strip_suffix(suffix)?, *up, *down)))?,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{}{fraction}", whole.strip_prefix('+').unwrap_or(whole));
    if digits.is_empty() || digits.len() > 24 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(down)?;
    let thousandths = digits.parse::<i128>().ok()?.checked_mul(up)?.checked_mul(1000)?;
    i64::try_from(thousandths.checked_add(scale - 1)? / scale).ok()
}

/// The quantity in whole units, rounded up.
pub(super) fn units(text: &str) -> Option<i64> {
    millis(text).map(|millis| millis.div_euclid(1000) + i64::from(millis % 1000 != 0))
}

/// A number and its power of ten. `1E` alone is the suffix for 10^18.
fn exponent(text: &str) -> Option<(&str, i32)> {
    let (number, power) = text.split_once(['e', 'E'])?;
    let power = power.parse::<i32>().ok()?;
    (-30..=30).contains(&power).then_some((number, power))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_quantity_is_read() {
        let cases = [
            ("500m", 500),
            ("1", 1000),
            ("1.5", 1500),
            ("0.1", 100),
            (".5", 500),
            ("100n", 1),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("5e-1", 500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1M", 1_000_000_000),
            ("1P", 1_000_000_000_000_000_000),
        ];
        for (text, expected) in cases {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        assert_eq!((units("128Mi"), units("1500m"), units("0")), (Some(128 << 20), Some(2), Some(0)));
    }

    #[test]
    fn what_is_no_quantity_is_not_read() {
        for text in ["", "m", "4GB", "-1", "1..5", "0x10", "1e99", "1 Gi", "Gi", "9999999E", "one", "1e", "²"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9.eE+ -]{0,40}[a-zA-Z]{0,2}|.{0,20}") {
            let _ = units(&text);
        }
    }
}

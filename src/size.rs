//! Sizes as people write and read them: powers of 1024.

/// A number of bytes, alone or with K, M or G.
///
/// # Errors
/// What a size looks like.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let digits = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "a size is a number of bytes, alone or with K, M or G".into())
}

/// A number of bytes, in full and, if it is large, short.
#[allow(dead_code)]
pub(crate) fn show(bytes: u64) -> String {
    let short = |unit: u64, name| {
        // Rounded down, so that nothing is promised.
        let (whole, tenths) = (bytes / unit, bytes % unit * 10 / unit);
        format!("{bytes} bytes ({whole}.{tenths} {name})")
    };
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => short(1 << 10, "KiB"),
        0x10_0000..0x4000_0000 => short(1 << 20, "MiB"),
        _ => short(1 << 30, "GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("0010", 10),
            ("5K", 5 << 10),
            ("5M", 5 << 20),
            ("3G", 3 << 30),
            ("18446744073709551615", u64::MAX),
            ("17179869183G", 17_179_869_183 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        for text in [
            "",
            "K",
            "-1",
            "+5",
            "5k",
            "5MB",
            "5MiB",
            "5T",
            "1.5M",
            " 5",
            "5 M",
            "0x10",
            "1e3",
            "५",
            "Мb",
            "18446744073709551616",
            "17179869184G",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("K, M or G"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_is_exact_and_short() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1024 bytes (1.0 KiB)"),
            (1_048_575, "1048575 bytes (1023.9 KiB)"),
            (5 << 20, "5242880 bytes (5.0 MiB)"),
            (u64::MAX, "18446744073709551615 bytes (17179869183.9 GiB)"),
        ] {
            assert_eq!(show(bytes), text);
        }
    }
}

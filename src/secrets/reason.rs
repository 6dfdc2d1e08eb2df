//! What a cloud's library says of a fault, as one line and no more than a line.

use std::error::Error;

/// The last of its causes: the others only say in which layer it was seen.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    one_line(&cause.to_string())
}

/// The first line of `text`, without control characters and not too long.
pub(super) fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().filter(|character| !character.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line() {
        assert_eq!(one_line("\n a\u{7}b\nc"), "ab");
        assert_eq!(one_line(""), "");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 300);
    }
}

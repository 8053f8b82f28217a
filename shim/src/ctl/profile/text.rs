//! Text a terminal can show.

use std::io::{Result, Write};

/// Columns a report tries to stay within.
pub(super) const WIDTH: usize = 100;

/// Writes `head` in a column that ends at `indent`, and `text` beside it, wrapped.
pub(super) fn beside(out: &mut dyn Write, head: &str, indent: usize, text: &str) -> Result<()> {
    let mut lines = wrap(text, WIDTH.saturating_sub(indent)).into_iter();
    // A head too long for its column gets a line of its own.
    if head.chars().count() >= indent && indent > 0 {
        writeln!(out, "{head}")?;
    } else {
        writeln!(out, "{}", format!("{head:<indent$}{}", lines.next().unwrap_or_default()).trim_end())?;
    }
    lines.try_for_each(|line| writeln!(out, "{:indent$}{line}", ""))
}

/// Writes `text`, wrapped and indented.
pub(super) fn paragraph(out: &mut dyn Write, indent: usize, text: &str) -> Result<()> {
    wrap(text, WIDTH.saturating_sub(indent)).iter().try_for_each(|line| writeln!(out, "{:indent$}{line}", ""))
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Writes what the author of a profile might not expect, if there is anything.
pub(super) fn warnings(warnings: &[String], out: &mut dyn Write) -> Result<()> {
    if !warnings.is_empty() {
        writeln!(out, "\nWarnings")?;
    }
    warnings.iter().try_for_each(|warning| beside(out, "  -", 4, warning))
}

/// `1 call`, `2 calls`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_within_the_width_and_beside_its_head() {
        let mut out = Vec::new();
        let text = "word ".repeat(60);
        assert!(beside(&mut out, "  head", 10, &text).is_ok());
        assert!(beside(&mut out, "  a head that is too long", 10, "text").is_ok());
        let text = String::from_utf8_lossy(&out).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("  head    word") && lines[1].starts_with("          word"));
        assert_eq!(lines[lines.len() - 2..], ["  a head that is too long", "          text"]);
        assert!(lines.iter().all(|line| line.len() <= WIDTH && line.trim_end() == *line));
    }
}

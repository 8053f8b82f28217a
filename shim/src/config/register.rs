//! The file of entries of the AI register: one a line, `#` begins a comment.

use std::path::Path;

use super::ConfigError;

/// The longest entry, in bytes.
const LONGEST: usize = 256;

/// The entries of the file at `path`.
///
/// # Errors
/// A line that cannot be one, or none at all: with an empty list no pod could start, which is not what an empty file
/// was made for.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<String>, ConfigError> {
    let fault = |line: usize, message: String| ConfigError::Invalid {
        path: path.to_owned(),
        line,
        key: "none".to_owned(),
        message,
    };
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        if entry.len() > LONGEST || entry.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let message = format!("an entry is one word of at most {LONGEST} bytes, without a space inside");
            return Err(fault(index + 1, message));
        }
        entries.push(entry.to_owned());
    }
    match entries.is_empty() {
        true => Err(fault(text.lines().count().max(1), "the register holds no entry".to_owned())),
        false => Ok(entries),
    }
}

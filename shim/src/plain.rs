//! Text from outside as it may stand where people read it.

/// Whether `c` shows as itself: it does not move the cursor, change colours, turn the direction of writing, or hide.
pub fn is_plain(c: char) -> bool {
    let hidden = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !hidden
}

/// Text that may be a container's or a pod author's, as it may stand on a terminal: what [`is_plain`] denies is spelt out.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if is_plain(c) => plain.push(c),
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.extend(c.escape_unicode()),
        }
    }
    plain
}

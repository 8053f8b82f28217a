//! Reads `syscalls/*.tsv`: one `number<TAB>name` a line.

/// The (name, number) pairs of a table, sorted by name, or what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<(&str, u32)>, String> {
    let mut table = Vec::new();
    for line in text.lines() {
        let (number, name) = line.split_once('\t').ok_or_else(|| format!("no tab in {line:?}"))?;
        let number = number.parse().map_err(|e| format!("{line:?}: {e}"))?;
        table.push((name, number));
    }
    table.sort_unstable();
    let mut numbers: Vec<u32> = table.iter().map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    if table.windows(2).any(|w| w[0].0 == w[1].0) || numbers.windows(2).any(|w| w[0] == w[1]) {
        return Err("a name or a number is listed twice".to_owned());
    }
    Ok(table)
}

//! Names that look like a name that was not found.

const MAX_SUGGESTIONS: usize = 5;
const MAX_LENGTH: usize = 256;

/// The names most similar to `wanted`, best first: clones that a compiler derived from it
/// (`name.isra.0`), then those few edits away.
pub(crate) fn suggest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let limit = wanted.len().div_ceil(4).min(4);
    let mut ranked: Vec<(usize, &str)> = names
        .filter_map(|name| rank(wanted, name, limit).map(|rank| (rank, name)))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(MAX_SUGGESTIONS)
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn rank(wanted: &str, name: &str, limit: usize) -> Option<usize> {
    let clone = |rest: &str| rest.starts_with('.');
    if name.strip_prefix(wanted).is_some_and(clone) {
        return Some(0);
    }
    if name.is_empty()
        || name.len().abs_diff(wanted.len()) > limit
        || name.len().max(wanted.len()) > MAX_LENGTH
    {
        return None;
    }
    let distance = edit_distance(wanted.as_bytes(), name.as_bytes());
    (distance <= limit).then_some(distance)
}

/// Levenshtein distance.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_come_first_and_strangers_never() {
        let names = ["process_data", "proces_item", "process_item.isra.0", "main"];
        assert_eq!(
            suggest("process_item", names.into_iter()),
            ["process_item.isra.0", "proces_item"]
        );
    }

    #[test]
    fn measures_edits() {
        assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
        assert_eq!(edit_distance(b"", b"abc"), 3);
    }
}

//! Links between pages lead somewhere.

use super::{Finding, SourceFile};

pub(super) fn check(file: &SourceFile, files: &[SourceFile]) -> Vec<Finding> {
    if !file.has_extension("md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for link in links_of(line) {
            if let Some(problem) = find_problem(file, link, files) {
                let message = format!("link `{link}`: {problem}");
                findings.push(Finding::new(file, index + 1, message));
            }
        }
    }
    findings
}

/// Targets of `[text](target)`.
fn links_of(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

fn find_problem(file: &SourceFile, link: &str, files: &[SourceFile]) -> Option<&'static str> {
    if link.contains("://") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let Some(target) = resolve(&file.path, path) else {
        return Some("leads out of the repository");
    };
    let Some(found) = files.iter().find(|file| file.path == target) else {
        let prefix = format!("{}/", target.trim_end_matches('/'));
        let is_directory = files.iter().any(|file| file.path.starts_with(&prefix));
        return (!is_directory).then_some("there is no such file");
    };
    if found.has_extension("rs") {
        let exists = anchor.is_empty() || found.text.contains(&format!("fn {anchor}("));
        return (!exists).then_some("there is no such function");
    }
    let exists = anchor.is_empty() || anchors_of(&found.text).any(|found| found == anchor);
    (!exists).then_some("there is no such heading")
}

/// The path that a link in `page` means, relative to the root.
fn resolve(page: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(page.to_owned());
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The names under which headings can be linked to.
fn anchors_of(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::SourceFile;

    fn problems(text: &str) -> Vec<String> {
        let page = SourceFile::sample("docs/a.md", text);
        let files = [
            SourceFile::sample("docs/a.md", text),
            SourceFile::sample("docs/b.md", "# Title\n## The `replace` flag\n"),
            SourceFile::sample("samples/x.c", ""),
            SourceFile::sample("tests/y.rs", "#[test]\nfn it_works() {}\n"),
        ];
        check(&page, &files).iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn good_links_are_quiet() {
        let text = "# Here\n[b](b.md) [flag](b.md#the-replace-flag) [here](#here)\n\
                    [x](../samples/x.c) [all](../samples) [test](../tests/y.rs#it_works) [web](https://example.com/none)\n";
        assert_eq!(problems(text), Vec::<String>::new());
    }

    #[test]
    fn bad_links_are_found() {
        let text = "[c](c.md)\n[no](b.md#nothing)\n[out](../../x.md)\n[t](../tests/y.rs#works)\n";
        let found = problems(text);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], "docs/a.md:1: link `c.md`: there is no such file");
        assert!(found[1].ends_with("there is no such heading"));
        assert!(found[2].ends_with("leads out of the repository"));
        assert!(found[3].ends_with("there is no such function"));
    }
}

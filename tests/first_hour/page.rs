//! The commands of docs/first-hour.md, section by section.

use std::collections::VecDeque;

/// Commands that are still to be run.
pub struct Page(VecDeque<String>);

impl Page {
    /// Those of the sections with these titles, which the page must have.
    pub fn of(titles: &[&str]) -> Self {
        let text = include_str!("../../docs/first-hour.md");
        let sections = text.split("\n## ").filter(|section| titles.iter().any(|title| section.starts_with(title)));
        let sections: Vec<&str> = sections.collect();
        assert_eq!(sections.len(), titles.len(), "the page has not all of {titles:?}");
        let blocks = sections.iter().flat_map(|section| section.split("```sh\n").skip(1));
        let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
        Self(lines.map(str::to_owned).collect())
    }

    /// The next one.
    pub fn next(&mut self) -> Option<String> {
        self.0.pop_front()
    }
}

/// Titles of all sections, the first of which is the page's own.
pub fn titles() -> Vec<&'static str> {
    let text = include_str!("../../docs/first-hour.md");
    text.split("\n## ").map(|section| section.lines().next().unwrap_or_default()).collect()
}

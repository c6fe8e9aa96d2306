//! The commands that the documents name, so that tests can hold the documents to what the programs accept and do.
//!
//! Two kinds: typed at a prompt (`$ sudo parkranger top`, in a fenced block), and named in running text between
//! backquotes, where words such as TARGET stand for something.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A command in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documented {
    /// File and line, for whoever has to mend it.
    pub place: String,
    /// The command as a shell would read it, without prompt, `sudo` and comment.
    pub command: String,
    /// Stands after a prompt, and so is to be typed as it is.
    pub prompt: bool,
}

/// Every command of every document below the repository's root, in the order of files and lines.
///
/// # Errors
/// When a document cannot be read.
pub fn commands(root: &Path) -> io::Result<Vec<Documented>> {
    let mut documents: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md"].iter().map(|name| root.join(name)).collect();
    for entry in fs::read_dir(root.join("docs"))? {
        documents.push(entry?.path());
    }
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents.sort();
    let mut found = Vec::new();
    for document in documents.iter().filter(|path| path.is_file()) {
        let name = document.strip_prefix(root).unwrap_or(document).display().to_string();
        found.extend(in_text(&name, &fs::read_to_string(document)?));
    }
    Ok(found)
}

/// The commands of one text.
#[must_use]
pub fn in_text(name: &str, text: &str) -> Vec<Documented> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if let Some(typed) = line.trim_start().strip_prefix("$ ").filter(|_| fenced) {
            found.push(Documented { place, command: without_comment(typed), prompt: true });
        } else if !fenced {
            // Every second part is between backquotes.
            found.extend(line.split('`').skip(1).step_by(2).map(|span| Documented {
                place: place.clone(),
                command: without_comment(span),
                prompt: false,
            }));
        }
    }
    found
}

fn without_comment(typed: &str) -> String {
    let typed = typed.split_once(" # ").map_or(typed, |(command, _)| command).trim();
    typed.strip_prefix("sudo ").unwrap_or(typed).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_and_backquotes_are_told_apart() {
        let text = "Say `cargo xtask vm` or `sudo top`.\n```console\n$ sudo parkranger top --pid 7   # one `process`\n\
                    output\n  $ parkranger ps\n```\nand `parkranger check`\n";
        let found = in_text("x.md", text);
        let found: Vec<_> =
            found.iter().map(|found| (found.place.as_str(), found.command.as_str(), found.prompt)).collect();
        assert_eq!(
            found,
            [
                ("x.md:1", "cargo xtask vm", false),
                ("x.md:1", "top", false),
                ("x.md:3", "parkranger top --pid 7", true),
                ("x.md:5", "parkranger ps", true),
                ("x.md:7", "parkranger check", false),
            ]
        );
    }
}

//! The names that a pattern in LIST, NLST or STAT stands for. They are found before the reply begins, while nobody is listened
//! to, and held in memory: both have a bound, whatever the pattern is made of.
use std::collections::{HashSet, VecDeque};

use crate::ftp::protocol::glob::{Pattern, is_pattern};
use crate::ftp::refusal::Refusal;
use crate::storage::{Asked, Entry, Kind, Links, View, VirtualPath};

/// How many names of a listing one name costs that a pattern looks at: by its path, and nobody is listened to meanwhile.
const PATTERN_COST: usize = 4;

/// Bytes that one listing may hold of names still to come: what the directories of a small host's owner fit into.
pub const HELD: usize = 8 << 20;

/// What a name that is held takes beside its bytes, about.
pub const ENTRY: usize = 48;

/// A name in the form that was typed, and what it leads to.
type Found = (Vec<u8>, VirtualPath);

/// Patterns may stand in any component. What several ways lead to (`*/../*`) is found once, by the first of them.
///
/// # Errors
/// 550 for a pattern that looks at more than `most` names, or stands for more than there is room for.
pub fn expand(
    view: &View,
    here: &VirtualPath,
    typed: &[u8],
    most: usize,
) -> Result<VecDeque<Found>, Refusal> {
    let start = if typed.starts_with(b"/") {
        (b"/".to_vec(), VirtualPath::root())
    } else {
        (Vec::new(), here.clone())
    };
    let mut bounds = Bounds {
        most,
        looked_at: 0,
        held: size(&start),
    };
    let mut found = vec![start];
    let components = components(typed);
    for (index, component) in components.iter().enumerate() {
        let is_last = index + 1 == components.len();
        let step = Step {
            view,
            component,
            is_last,
        };
        found = if is_pattern(component) {
            step.matching(found, &mut bounds)?
        } else {
            step.literal(found, &mut bounds)?
        };
    }
    Ok(found.into())
}

/// Without what changes nothing: empty ones, and those in the middle that stay where they are.
fn components(typed: &[u8]) -> Vec<&[u8]> {
    let parts = typed.split(|&byte| byte == b'/');
    let parts: Vec<&[u8]> = parts.filter(|part| !part.is_empty()).collect();
    let last = parts.len().saturating_sub(1);
    let parts = parts.into_iter().enumerate();
    parts
        .filter(|(index, part)| *part != b"." || *index == 0 || *index == last)
        .map(|(_, part)| part)
        .collect()
}

fn size((shown, path): &Found) -> usize {
    2 * ENTRY + shown.len() + path.as_bytes().len()
}

/// What a pattern has cost so far.
struct Bounds {
    most: usize,
    looked_at: usize,
    held: usize,
}

impl Bounds {
    fn look(&mut self) -> Result<(), Refusal> {
        self.looked_at += PATTERN_COST;
        if self.looked_at <= self.most {
            return Ok(());
        }
        let text = format!(
            "The pattern would have to look at more than {} names.",
            self.most
        );
        Err(Refusal::new(550, text)
            .logged("a pattern looks at too many names (setting: names_per_command)"))
    }

    fn hold(&mut self, found: Found, all: &mut Vec<Found>) -> Result<(), Refusal> {
        self.held += size(&found);
        if self.held > HELD {
            let text = "The pattern stands for more names than there is room for.";
            return Err(
                Refusal::new(550, text).logged("a pattern stands for more names than are held")
            );
        }
        all.push(found);
        Ok(())
    }
}

/// One component of a pattern.
struct Step<'a> {
    view: &'a View,
    component: &'a [u8],
    is_last: bool,
}

impl Step<'_> {
    fn shown(&self, before: &[u8], name: &[u8]) -> Vec<u8> {
        let slash: &[u8] = if self.is_last { b"" } else { b"/" };
        [before, name, slash].concat()
    }

    fn literal(&self, from: Vec<Found>, bounds: &mut Bounds) -> Result<Vec<Found>, Refusal> {
        let mut next = Vec::new();
        // Only upwards do ways meet.
        let mut met = HashSet::new();
        for before in from {
            bounds.look()?;
            bounds.held -= size(&before);
            let (shown, directory) = before;
            let Ok(path) = directory.join(self.component) else {
                continue;
            };
            if self.component == b".." && !met.insert(path.clone()) {
                continue;
            }
            if self.view.symlink_metadata(&path).is_ok() {
                bounds.hold((self.shown(&shown, self.component), path), &mut next)?;
            }
        }
        Ok(next)
    }

    fn matching(&self, from: Vec<Found>, bounds: &mut Bounds) -> Result<Vec<Found>, Refusal> {
        let pattern = Pattern::new(self.component);
        let mut next = Vec::new();
        for before in from {
            bounds.look()?;
            bounds.held -= size(&before);
            let (shown, directory) = before;
            // A directory that cannot be listed has nothing to match.
            let asked = Asked::KIND.if_wanted(!self.is_last);
            let Ok(mut listing) = self.view.list(&directory, asked, Links::Shown) else {
                continue;
            };
            while let Some(entry) = listing.next_entry() {
                bounds.look()?;
                let Entry { name, metadata, .. } = entry?;
                let can_hold_more = matches!(metadata.kind, Kind::Directory | Kind::Symlink);
                if (self.is_last || can_hold_more) && pattern.matches(name) {
                    if let Ok(path) = directory.join_name(name) {
                        bounds.hold((self.shown(&shown, name), path), &mut next)?;
                    }
                }
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_that_change_nothing_are_left_out() {
        let parts = |typed: &str| -> Vec<String> {
            components(typed.as_bytes())
                .into_iter()
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect()
        };
        assert_eq!(parts("/a//*/./././../b"), ["a", "*", "..", "b"]);
        assert_eq!(parts("./././*.txt"), [".", "*.txt"]);
        assert_eq!(parts("*/././."), ["*", "."]);
        assert_eq!(parts("///"), [""; 0]);
        assert_eq!(parts("*/.a/..."), ["*", ".a", "..."]);
    }
}

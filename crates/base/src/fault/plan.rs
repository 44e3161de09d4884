//! What is to go wrong, and when it is time.

/// What happens at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Kill,
    Vmm,
    Both,
    NoSpace,
    Io,
}

/// Every action with its name.
const ACTIONS: [(&str, Action); 5] = [
    ("kill", Action::Kill),
    ("vmm", Action::Vmm),
    ("both", Action::Both),
    ("enospc", Action::NoSpace),
    ("eio", Action::Io),
];

impl Action {
    pub(super) fn name(self) -> &'static str {
        ACTIONS.iter().find(|(_, action)| *action == self).map_or("", |(name, _)| name)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Armed {
    place: String,
    /// How many passings are left until it happens.
    left: u64,
    action: Action,
}

/// What is still to go wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    armed: Vec<Armed>,
}

impl Plan {
    /// Reads a list of `NAME[@N]=ACTION`; an empty one is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Self { armed: entries.map(armed).collect::<Result<_, _>>()? })
    }

    /// A place is passed: what happens there, if anything.
    pub(super) fn pass(&mut self, place: &str) -> Option<Action> {
        let of_place = self.armed.iter_mut().filter(|armed| armed.place == place);
        of_place.for_each(|armed| armed.left -= 1);
        let due = self.armed.iter().position(|armed| armed.left == 0)?;
        Some(self.armed.remove(due).action)
    }
}

fn armed(entry: &str) -> Result<Armed, String> {
    let wrong = |why: &str| Err(format!("{entry:?} is not NAME[@N]=ACTION: {why}"));
    let Some((place, action)) = entry.split_once('=') else { return wrong("there is no =") };
    let (place, left) = match place.split_once('@') {
        None => (place, Ok(1)),
        Some((place, left)) => (place, left.parse::<u64>()),
    };
    let named = |c: char| c.is_ascii_lowercase() || c == '.' || c == '_';
    if place.is_empty() || !place.chars().all(named) {
        return wrong("NAME has to be of a-z, . and _");
    }
    let Some(left) = left.ok().filter(|left| *left > 0) else {
        return wrong("N has to be a number from 1 on");
    };
    match ACTIONS.iter().find(|(name, _)| *name == action) {
        Some((_, action)) => Ok(Armed { place: place.to_owned(), left, action: *action }),
        None => wrong("ACTION has to be kill, vmm, both, enospc or eio"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_happens_once_at_its_passing() {
        let mut plan = Plan::parse("a.b=kill, a.b@3=eio,c@2=vmm").unwrap();
        let passed: Vec<_> = ["a.b", "c", "a.b", "c", "a.b", "a.b", "c", "d"]
            .into_iter()
            .map(|place| plan.pass(place).map(Action::name))
            .collect();
        let (kill, vmm, eio) = (Some("kill"), Some("vmm"), Some("eio"));
        assert_eq!(passed, [kill, None, None, vmm, eio, None, None, None]);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn nothing_is_a_plan_too() {
        for text in ["", " ", ","] {
            assert_eq!(Plan::parse(text), Ok(Plan::default()), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for text in ["a", "a=", "=kill", "a=boom", "a@0=kill", "a@=kill", "a@-1=eio", "A=kill"] {
            let error = Plan::parse(&format!("fine=kill,{text}")).unwrap_err();
            assert!(error.contains(text), "{text:?}: {error}");
        }
    }
}

//! Who may know whom: arrows only go down, and leaves do not see each other.

use std::collections::BTreeSet;

use crate::workspace::Graph;

/// Every crate with the crates of the workspace that it may depend on, tests included.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("api", &[]),
    ("backup", &["base"]),
    ("base", &[]),
    (
        "bhatti",
        &["api", "base", "daemon", "disk", "dockerfile", "net", "orchestrator", "proto", "vmm"],
    ),
    ("daemon", &["api", "base", "orchestrator"]),
    ("disk", &["base"]),
    ("dockerfile", &[]),
    ("e2e", &["api", "backup", "base"]),
    ("lohar", &["proto"]),
    ("net", &["base"]),
    ("orchestrator", &["backup", "base", "disk", "dockerfile", "net", "proto", "registry", "vmm"]),
    ("proto", &[]),
    ("registry", &["base"]),
    ("vmm", &["base"]),
    ("xtask", &[]),
];

pub(super) fn check(graph: &Graph) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in graph {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            problems.push(format!("{name}: is not in the list of crates in xtask's tidy/graph.rs"));
            continue;
        };
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let forbidden = dependencies.iter().filter(|name| !allowed.contains(name.as_str()));
        problems.extend(forbidden.map(|other| format!("{name}: must not depend on {other}")));
    }
    let gone = ALLOWED.iter().filter(|(name, _)| !graph.contains_key(*name));
    problems.extend(gone.map(|(name, _)| format!("{name}: is in tidy/graph.rs, but no crate")));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Graph {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        ALLOWED.iter().map(|(name, list)| ((*name).to_owned(), names(list))).collect()
    }

    #[test]
    fn the_allowed_graph_and_any_part_of_it_pass() {
        assert_eq!(check(&allowed()), [""; 0]);
        let mut graph = allowed();
        graph.get_mut("daemon").unwrap().clear();
        assert_eq!(check(&graph), [""; 0]);
    }

    #[test]
    fn a_leaf_that_sees_another_is_found() {
        let mut graph = allowed();
        graph.get_mut("disk").unwrap().insert("vmm".into());
        assert_eq!(check(&graph), ["disk: must not depend on vmm"]);
    }

    #[test]
    fn unknown_and_vanished_crates_are_found() {
        let mut graph = allowed();
        graph.remove("proto");
        graph.insert("extra".into(), BTreeSet::new());
        let problems = check(&graph);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("extra: ") && problems[1].starts_with("proto: "));
    }

    #[test]
    fn the_list_itself_has_no_arrow_upwards() {
        // What a crate may depend on has to be placeable below it, all the way down.
        let mut placed: BTreeSet<&str> = BTreeSet::new();
        while placed.len() < ALLOWED.len() {
            let ready =
                ALLOWED.iter().filter(|(_, below)| below.iter().all(|b| placed.contains(b)));
            let ready: Vec<&str> = ready.map(|(name, _)| *name).collect();
            let before = placed.len();
            placed.extend(ready);
            assert!(placed.len() > before, "a cycle above {placed:?}");
        }
    }
}

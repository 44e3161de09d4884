//! The workspace keeps its own rules.

#[test]
fn the_workspace_is_tidy() {
    let outcome = xtask::tidy::run().unwrap();
    for note in outcome.notes {
        println!("{note}");
    }
    assert!(outcome.problems.is_empty(), "\n{}", outcome.problems.join("\n"));
}

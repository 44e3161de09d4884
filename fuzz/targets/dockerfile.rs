//! Text as a Dockerfile, all of it: parsed, planned, and each step with its variables; and as a
//! `.dockerignore`. Nothing panics, and what is wrong names a line that there is.

#![no_main]

use std::collections::BTreeMap;

use dockerfile::{Ignore, Scope, parse, plan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines = text.lines().count().max(1);
    let there = |error: &dockerfile::Invalid| {
        assert!((1..=lines + 1).contains(&error.line), "{error:?} of {lines} lines");
    };
    if let Ok(ignore) = Ignore::parse(text) {
        let _ = ignore.excludes("a/b/c");
    }
    let file = match parse(text) {
        Ok(file) => file,
        Err(error) => return there(&error),
    };
    let global = match Scope::global(file.escape, &file.args, &BTreeMap::new(), &[("A", "b")]) {
        Ok(global) => global,
        Err(error) => return there(&error),
    };
    let planned = match plan(&file, &global, None, "linux/amd64") {
        Ok(planned) => planned,
        Err(error) => return there(&error),
    };
    for stage in planned {
        let mut scope = global.stage(vec![("PATH".to_owned(), "/bin".to_owned())]);
        for step in &file.stages[stage.stage].steps {
            if let Err(error) = scope.apply(step) {
                there(&error);
                break;
            }
        }
    }
});

//! What is said on the wire, exactly. The file `golden/messages.txt` is the surface: whoever
//! changes it changes what agents of older sandboxes are told. After an intended change write it
//! anew with `BHATTI_GOLDEN=write cargo test -p proto --test surface` and review the difference.
//!
//! ```text
//! request exec {"op":"exec","argv":["sh"],…}     what is sent; and what parses as the same
//! request exec needs argv                        without any other field it parses as well
//! ```

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

mod samples;

use std::{
    collections::BTreeSet,
    fmt::{Debug, Write as _},
};

use proto::message::{AttachControl, Request, Response};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const GOLDEN: &str = include_str!("golden/messages.txt");
const DOCUMENT: &str = include_str!("../../../docs/wire-protocol.md");

/// Objects whose keys are data.
const MAPS: [&str; 1] = ["env"];

/// One kind of message as lines of the golden file.
fn lines<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    direction: &str,
    tag: &str,
    samples: &[T],
) -> String {
    let mut lines = String::new();
    let names: Vec<String> = samples.iter().map(|sample| name(sample, tag)).collect();
    for (sample, name) in samples.iter().zip(&names) {
        let json = serde_json::to_string(sample).unwrap();
        writeln!(lines, "{direction} {name} {json}").unwrap();
    }
    let distinct: BTreeSet<&String> = names.iter().collect();
    for one in distinct {
        let of = samples.iter().zip(&names).filter(|(_, name)| *name == one);
        let mut needed = BTreeSet::new();
        for (sample, _) in of {
            let value = serde_json::to_value(sample).unwrap();
            for path in paths(&value) {
                let without = removed(&value, &path);
                if serde_json::from_value::<T>(without).is_err() {
                    needed.insert(shown(&path));
                }
            }
        }
        needed.remove(tag);
        let needed: Vec<String> = needed.into_iter().collect();
        let needed = if needed.is_empty() { "nothing".to_owned() } else { needed.join(" ") };
        writeln!(lines, "{direction} {one} needs {needed}").unwrap();
    }
    lines
}

fn name(message: &impl Serialize, tag: &str) -> String {
    serde_json::to_value(message).unwrap()[tag].as_str().unwrap().to_owned()
}

/// A step into a value.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Ways to all fields, at any depth.
fn paths(value: &Value) -> Vec<Vec<Step>> {
    let children: Vec<(Step, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (Step::Key(key.clone()), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (Step::Index(i), v)).collect(),
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for (step, child) in children {
        if matches!(step, Step::Key(_)) {
            all.push(vec![step.clone()]);
        }
        if matches!(&step, Step::Key(key) if MAPS.contains(&key.as_str())) {
            continue;
        }
        all.extend(paths(child).into_iter().map(|rest| [vec![step.clone()], rest].concat()));
    }
    all
}

fn removed(value: &Value, path: &[Step]) -> Value {
    let mut value = value.clone();
    let (last, way) = path.split_last().unwrap();
    let mut at = &mut value;
    for step in way {
        at = match step {
            Step::Key(key) => &mut at[key.as_str()],
            Step::Index(index) => &mut at[*index],
        };
    }
    let Step::Key(key) = last else { panic!("{path:?} is no field") };
    at.as_object_mut().unwrap().remove(key);
    value
}

fn shown(path: &[Step]) -> String {
    let parts = path.iter().map(|step| match step {
        Step::Key(key) => key.as_str(),
        Step::Index(_) => "*",
    });
    parts.collect::<Vec<_>>().join(".")
}

fn surface() -> String {
    [
        lines("request", "op", &samples::requests()),
        lines("control", "do", &samples::attach_controls()),
        lines("answer", "re", &samples::responses()),
    ]
    .concat()
}

/// Every message of the golden file: direction, name, JSON.
fn golden() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    GOLDEN.lines().filter_map(|line| {
        let (direction, rest) = line.split_once(' ')?;
        let (name, json) = rest.split_once(' ')?;
        json.starts_with('{').then_some((direction, name, json))
    })
}

/// Parses and writes again.
fn through(direction: &str, json: &str) -> serde_json::Result<String> {
    match direction {
        "request" => serde_json::to_string(&serde_json::from_str::<Request>(json)?),
        "control" => serde_json::to_string(&serde_json::from_str::<AttachControl>(json)?),
        "answer" => serde_json::to_string(&serde_json::from_str::<Response>(json)?),
        other => panic!("{other:?} is no direction"),
    }
}

#[test]
fn the_surface_is_the_reviewed_one() {
    let surface = surface();
    if std::env::var_os("BHATTI_GOLDEN").is_some_and(|value| value == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/messages.txt");
        std::fs::write(path, &surface).unwrap();
        return;
    }
    for (ours, reviewed) in surface.lines().zip(GOLDEN.lines()) {
        assert_eq!(ours, reviewed);
    }
    assert_eq!(surface.lines().count(), GOLDEN.lines().count());
}

#[test]
fn what_is_written_parses_as_the_same() {
    for request in samples::requests() {
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
    }
    for response in samples::responses() {
        let json = serde_json::to_string(&response).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), response);
    }
    for (direction, _, json) in golden() {
        assert_eq!(through(direction, json).unwrap(), json);
    }
}

/// What a newer peer adds means nothing to us.
#[test]
fn unknown_fields_are_ignored_at_any_depth() {
    for (direction, _, json) in golden() {
        let mut value: Value = serde_json::from_str(json).unwrap();
        add_unknown(&mut value);
        let more = value.to_string();
        assert_ne!(more, json);
        assert_eq!(through(direction, &more).unwrap(), json, "{more}");
    }
}

fn add_unknown(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                if !MAPS.contains(&key.as_str()) {
                    add_unknown(value);
                }
            }
            fields.insert("of_a_newer_version".to_owned(), serde_json::json!({"a": [1]}));
        }
        Value::Array(items) => items.iter_mut().for_each(add_unknown),
        _ => {}
    }
}

/// Messages with the fields that they have always had, as an agent of the first release sends and
/// gets them. A line here is never changed.
#[test]
fn the_oldest_messages_still_parse() {
    let old = [
        ("request", r#"{"op":"hello","version":1}"#),
        ("request", r#"{"op":"hello","version":1,"proof":null}"#),
        (
            "request",
            r#"{"op":"identify","sandbox_id":"s","hostname":"h","machine_id":"m","token":"t","refresh":{"time_ns":1,"seed":"00"}}"#,
        ),
        ("request", r#"{"op":"refresh","time_ns":1,"seed":"00"}"#),
        ("request", r#"{"op":"ping"}"#),
        ("request", r#"{"op":"exec","argv":["true"]}"#),
        ("request", r#"{"op":"file_read","path":"/a"}"#),
        ("request", r#"{"op":"file_read","path":"/a","offset":1,"limit":2,"max_bytes":3}"#),
        ("request", r#"{"op":"file_write","path":"/a"}"#),
        ("request", r#"{"op":"file_write","path":"/a","mode":420}"#),
        ("request", r#"{"op":"file_stat","path":"/a"}"#),
        ("request", r#"{"op":"file_list","path":"/a"}"#),
        ("request", r#"{"op":"activity"}"#),
        ("request", r#"{"op":"time_spawn"}"#),
        ("request", r#"{"op":"power_off"}"#),
        ("answer", r#"{"re":"welcome","version":1,"agent":"0.1.0"}"#),
        ("answer", r#"{"re":"identified"}"#),
        ("answer", r#"{"re":"done"}"#),
        ("answer", r#"{"re":"started","pid":7}"#),
        ("answer", r#"{"re":"exited","code":0}"#),
        ("answer", r#"{"re":"file_header","size":1,"mode":420,"kind":"file","mtime":1}"#),
        ("answer", r#"{"re":"file_end","truncated":false}"#),
        ("answer", r#"{"re":"stat","size":1,"mode":420,"kind":"other","mtime":1}"#),
        (
            "answer",
            r#"{"re":"list","entries":[{"name":"a","size":1,"mode":420,"kind":"symlink","mtime":1}],"last":true}"#,
        ),
        ("answer", r#"{"re":"activity","running":0,"idle_ms":1}"#),
        ("answer", r#"{"re":"spawn_timed","nanos":1}"#),
        ("answer", r#"{"re":"error","code":"no_space","message":"why"}"#),
    ];
    for (direction, json) in old {
        assert!(through(direction, json).is_ok(), "{json}: {:?}", through(direction, json));
    }
}

/// What is no message is an error, never a default.
#[test]
fn a_message_of_a_newer_version_is_told_from_ours() {
    for json in [r#"{"op":"of_a_newer_version"}"#, r#"{"re":"done"}"#, "{}", "[]", "null", "7"] {
        assert!(serde_json::from_str::<Request>(json).is_err(), "{json}");
    }
    for json in [r#"{"re":"of_a_newer_version"}"#, r#"{"op":"ping"}"#, r#""done""#] {
        assert!(serde_json::from_str::<Response>(json).is_err(), "{json}");
    }
}

/// What stands in backticks in the document; the `?` of fields that may be absent left out.
fn documented() -> BTreeSet<&'static str> {
    // Blocks of code have backticks of their own.
    let text = DOCUMENT.split("```").step_by(2);
    let quoted = text.flat_map(|text| text.split('`').skip(1).step_by(2));
    quoted.map(|name| name.trim_end_matches('?')).collect()
}

#[test]
fn the_document_names_every_message_field_and_error() {
    let documented = documented();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for (_, name, json) in golden() {
        wanted.insert(name.to_owned());
        let value: Value = serde_json::from_str(json).unwrap();
        for path in paths(&value) {
            if let Some(Step::Key(key)) = path.last() {
                wanted.insert(key.clone());
            }
        }
    }
    for code in samples::error_codes() {
        let value = serde_json::to_value(code).unwrap();
        wanted.insert(value.as_str().unwrap().to_owned());
    }
    let missing: Vec<&String> =
        wanted.iter().filter(|name| !documented.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/wire-protocol.md says nothing of {missing:?}");
}

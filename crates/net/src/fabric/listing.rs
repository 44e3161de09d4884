//! Comparing rules as nft lists them.
//!
//! The rules that should be there are loaded into a namespace made for the purpose and read back
//! by the same nft, so that its spelling does not matter.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    NetError,
    findings::{Finding, Problem},
    namespace::Namespace,
    nft,
    rules::BY_PACKETS,
};

/// What changes by itself or does not matter.
const PASSING: [&str; 3] = ["handle", "packets", "bytes"];

/// The part that is all of a table.
pub(super) const WHOLE: &str = "the whole";

/// The parts of all tables: by table and name of the part, what it says.
pub(super) type Parts = BTreeMap<(String, String), Vec<String>>;

/// What a namespace's rules would be after this script, and nothing else.
pub(super) async fn expected(script: String) -> Result<Parts, NetError> {
    let scratch = Namespace::create().await.map_err(NetError::namespace)?;
    nft::apply(&scratch, script).await?;
    actual(&scratch).await
}

/// What a namespace's rules are.
pub(super) async fn actual(namespace: &Namespace) -> Result<Parts, NetError> {
    Ok(parts(nft::list(namespace, &["ruleset"]).await?))
}

fn parts(objects: Vec<Value>) -> Parts {
    let mut parts = Parts::new();
    for object in objects {
        let Value::Object(object) = object else { continue };
        for (kind, mut body) in object.into_iter().filter(|(kind, _)| kind != "metainfo") {
            let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
            let table = if kind == "table" { text("name") } else { text("table") };
            let table = format!("{} {table}", text("family"));
            let part = match kind.as_str() {
                "table" => WHOLE.to_owned(),
                "rule" => format!("the rules in chain {}", text("chain")),
                kind => format!("{kind} {}", text("name")),
            };
            if BY_PACKETS.contains(&text("name").as_str())
                && let Value::Object(fields) = &mut body
            {
                fields.remove("elem");
            }
            tidy(&mut body);
            parts.entry((table, part)).or_default().push(body.to_string());
        }
    }
    parts
}

/// Removes what passes and puts what has no order into one.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !PASSING.contains(&key.as_str()));
            fields.values_mut().for_each(tidy);
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_cached_key(Value::to_string);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// What differs in the tables that `ours` says are to be judged.
pub(super) fn compare(
    expected: &Parts,
    actual: &Parts,
    ours: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let keys: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
    let mut gone: Option<&str> = None;
    let mut findings = Vec::new();
    for key @ (table, part) in keys.into_iter().filter(|(table, _)| ours(table)) {
        // A table that is not there is one finding and not one for each of its parts.
        let whole = (table.clone(), WHOLE.to_owned());
        let (should, is) = (expected.contains_key(&whole), actual.contains_key(&whole));
        let (part, problem) = match (expected.get(key), actual.get(key)) {
            _ if should != is && gone == Some(table) => continue,
            _ if should != is => {
                gone = Some(table);
                (&whole.1, if should { Problem::Missing } else { Problem::Foreign })
            }
            (Some(_), None) => (part, Problem::Missing),
            (None, Some(_)) => (part, Problem::Foreign),
            (should, is) if should != is => (part, Problem::Changed),
            _ => continue,
        };
        let (table, part) = (table.clone(), part.clone());
        findings.push(Finding::Rules { table, part, problem });
    }
    findings
}

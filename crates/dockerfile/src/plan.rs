//! Which stages a target needs.

use std::collections::BTreeSet;

use crate::{Dockerfile, Instruction, Invalid, Scope, Step, shown};

/// What something is taken from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// An earlier stage, by its place in the file.
    Stage(usize),
    /// An image.
    Image(String),
}

/// A stage that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its place in the file.
    pub stage: usize,
    /// What it begins with.
    pub base: Base,
    /// What a `COPY --from` of it takes from, as it is written there.
    pub copies: Vec<(String, Base)>,
}

/// The stages that `target` needs, or the last one if there is none, in the order in which they can
/// be made: as in the file. The last of them is the target.
///
/// # Errors
/// There is no such target; a base is nothing, is `scratch`, or is for another platform.
pub fn plan(
    file: &Dockerfile,
    global: &Scope,
    target: Option<&str>,
    platform: &str,
) -> Result<Vec<Planned>, Invalid> {
    let last = file.stages.len().saturating_sub(1);
    let target = match target {
        None => last,
        Some(name) => find(file, name, file.stages.len()).ok_or_else(|| {
            let line = file.stages.last().map_or(1, |stage| stage.line);
            Invalid::new(line, format!("there is no stage {:?}", shown(name)))
        })?,
    };
    let mut wanted = BTreeSet::from([target]);
    let mut planned = Vec::new();
    // A stage needs only earlier ones.
    while let Some(index) = wanted.pop_last() {
        let stage = understand(file, global, index, platform)?;
        let others = stage.copies.iter().map(|(_, base)| base).chain([&stage.base]);
        wanted.extend(others.filter_map(|base| match base {
            Base::Stage(index) => Some(*index),
            Base::Image(_) => None,
        }));
        planned.push(stage);
    }
    planned.reverse();
    Ok(planned)
}

fn understand(
    file: &Dockerfile,
    global: &Scope,
    index: usize,
    platform: &str,
) -> Result<Planned, Invalid> {
    let stage = &file.stages[index];
    let refuse = |message: String| Invalid::new(stage.line, message);
    if let Some(wanted) = &stage.platform {
        let wanted = global.in_from(stage.line, wanted)?;
        if wanted != platform {
            let wanted = shown(&wanted);
            return Err(refuse(format!("this machine builds for {platform}, not for {wanted:?}")));
        }
    }
    let name = global.in_from(stage.line, &stage.base)?;
    let base = match name.as_str() {
        "" => return Err(refuse("nothing is left of the image's name".to_owned())),
        "scratch" => {
            return Err(refuse(
                "FROM scratch is not supported: a step needs something to run in. Begin with a \
                 small image, such as busybox"
                    .to_owned(),
            ));
        }
        name => find(file, name, index).map_or_else(|| Base::Image(name.to_owned()), Base::Stage),
    };
    let copies = stage.steps.iter().filter_map(|step| copied(file, index, step));
    Ok(Planned { stage: index, base, copies: copies.collect::<Result<_, _>>()? })
}

fn copied(file: &Dockerfile, index: usize, step: &Step) -> Option<Result<(String, Base), Invalid>> {
    let Instruction::Copy(copy) = &step.instruction else { return None };
    let from = copy.from.as_ref()?;
    if from.contains('$') {
        let message = "--from takes no variables; name a stage with FROM … AS, and copy from that";
        return Some(Err(Invalid::new(step.line, message)));
    }
    let place = from.parse::<usize>().ok();
    let base = match find(file, from, index).or(place.filter(|place| *place < index)) {
        Some(stage) => Base::Stage(stage),
        None if place.is_some() || *from == "scratch" => {
            let message = format!("there is no earlier stage {:?}", shown(from));
            return Some(Err(Invalid::new(step.line, message)));
        }
        None => Base::Image(from.clone()),
    };
    Some(Ok((from.clone(), base)))
}

/// The stage of that name, or at that place, among the first `before`.
fn find(file: &Dockerfile, name: &str, before: usize) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let named = file.stages[..before].iter().position(|s| s.name.as_deref() == Some(&lower));
    // As a target a number will do; as a base it would be an image's name.
    let place = || name.parse().ok().filter(|place| *place < before && before == file.stages.len());
    named.or_else(place)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::parse;

    fn planned(text: &str, target: Option<&str>) -> Result<Vec<Planned>, Invalid> {
        let file = parse(text).unwrap();
        let global = Scope::global(file.escape, &file.args, &BTreeMap::new(), &[]).unwrap();
        plan(&file, &global, target, "linux/amd64")
    }

    fn stages(text: &str, target: Option<&str>) -> Vec<usize> {
        planned(text, target).unwrap().iter().map(|planned| planned.stage).collect()
    }

    const TEXT: &str = "ARG V=2\nFROM a AS one\nFROM b:$V AS two\nCOPY --from=one x y\n\
                        FROM c AS three\nCOPY --from=0 x y\nCOPY --from=img:1 x y\nFROM two";

    #[test]
    fn only_what_a_target_needs_is_built() {
        assert_eq!(stages(TEXT, None), [0, 1, 3]);
        assert_eq!(stages(TEXT, Some("THREE")), [0, 2]);
        assert_eq!(stages(TEXT, Some("1")), [0, 1]);
        let three = planned(TEXT, Some("three")).unwrap().pop().unwrap();
        assert_eq!(three.base, Base::Image("c".to_owned()));
        let image = Base::Image("img:1".to_owned());
        assert_eq!(three.copies, [("0".to_owned(), Base::Stage(0)), ("img:1".to_owned(), image)]);
        let two = planned(TEXT, Some("two")).unwrap().pop().unwrap();
        assert_eq!(two.base, Base::Image("b:2".to_owned()));
    }

    #[test]
    fn a_name_that_no_earlier_stage_has_is_an_image_s() {
        let text = "FROM later\nFROM x AS later";
        assert_eq!(planned(text, Some("0")).unwrap()[0].base, Base::Image("later".to_owned()));
        assert_eq!(stages("FROM a AS x\nFROM x AS y", None), [0, 1]);
    }

    #[test]
    fn what_cannot_be_begun_with_is_refused() {
        for (text, target, line) in [
            ("FROM a", Some("b"), 1),
            ("FROM a", Some("1"), 1),
            ("FROM a\nFROM scratch", None, 2),
            ("FROM $no", None, 1),
            ("FROM --platform=linux/arm64 a", None, 1),
            ("FROM a\nCOPY --from=0 x y", None, 2),
            ("FROM a\nCOPY --from=$x x y", None, 2),
        ] {
            assert_eq!(planned(text, target).unwrap_err().line, line, "{text}");
        }
    }
}

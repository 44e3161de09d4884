use proptest::prelude::*;

use super::*;

fn steps(text: &str) -> Vec<Instruction> {
    let file = parse(&format!("FROM x\n{text}")).unwrap();
    file.stages[0].steps.iter().map(|step| step.instruction.clone()).collect()
}

fn refusal(text: &str) -> Invalid {
    parse(text).unwrap_err()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn copy(sources: &[&str], dest: &str) -> Copy {
    let sources = sources.iter().map(|path| Source::Path((*path).to_owned())).collect();
    Copy { add: false, from: None, chown: None, chmod: None, sources, dest: dest.to_owned() }
}

#[test]
fn stages_have_bases_and_names() {
    let text = "ARG V=1\nFROM --platform=linux/amd64 a:$V AS Build\nRUN x\nfrom build\n";
    let file = parse(text).unwrap();
    let argument = Argument { name: "V".into(), default: Some("1".into()) };
    assert_eq!(file.args, [(1, argument)]);
    let [first, second] = &file.stages[..] else { panic!("{file:?}") };
    assert_eq!((first.base.as_str(), first.name.as_deref()), ("a:$V", Some("build")));
    assert_eq!(first.platform.as_deref(), Some("linux/amd64"));
    assert_eq!((first.line, first.steps.len(), first.steps[0].line), (2, 1, 3));
    assert_eq!((second.base.as_str(), second.name.as_deref()), ("build", None));
}

#[test]
fn commands_are_for_a_shell_or_a_list() {
    let shell = |text: &str| Command::Shell(text.to_owned());
    let exec = |list: &[&str]| Command::Exec(list.iter().map(|s| (*s).to_owned()).collect());
    assert_eq!(steps("RUN a && b \"c\""), [Instruction::Run(shell("a && b \"c\""))]);
    assert_eq!(steps("RUN [\"a\", \"b c\"]"), [Instruction::Run(exec(&["a", "b c"]))]);
    assert_eq!(
        steps("CMD [\"a\"]\nENTRYPOINT b c"),
        [Instruction::Cmd(exec(&["a"])), Instruction::Entrypoint(shell("b c"))]
    );
    assert_eq!(steps("RUN [ -f x ]"), [Instruction::Run(shell("[ -f x ]"))]);
    assert_eq!(steps("RUN <<EOF\na\nb\nEOF"), [Instruction::Run(shell("a\nb\n"))]);
    assert_eq!(
        steps("RUN cat <<EOF > x\na\nEOF"),
        [Instruction::Run(shell("cat <<EOF > x\na\nEOF\n"))]
    );
}

#[test]
fn pairs_come_in_two_forms() {
    assert_eq!(
        steps("ENV a=1 b=\"x y\" c=$a"),
        [Instruction::Env(vec![pair("a", "1"), pair("b", "\"x y\""), pair("c", "$a")])]
    );
    assert_eq!(steps("ENV a some = text"), [Instruction::Env(vec![pair("a", "some = text")])]);
    assert_eq!(steps("LABEL \"a b\"=c"), [Instruction::Label(vec![pair("\"a b\"", "c")])]);
}

#[test]
fn copies_have_flags_sources_and_a_destination() {
    assert_eq!(steps("COPY a b c/"), [Instruction::Copy(copy(&["a", "b"], "c/"))]);
    assert_eq!(steps("COPY [\"a b\", \"c\"]"), [Instruction::Copy(copy(&["a b"], "c"))]);
    let flagged = Copy {
        from: Some("x".into()),
        chown: Some("a:b".into()),
        chmod: Some("755".into()),
        ..copy(&["a"], "b")
    };
    let text = "COPY --from=x --link --chown=a:b --chmod=755 a b";
    assert_eq!(steps(text), [Instruction::Copy(flagged)]);
    let added = Copy { add: true, ..copy(&["a.tar"], "/") };
    assert_eq!(steps("ADD a.tar /"), [Instruction::Copy(added)]);
    let inline = |expand| Source::Inline { name: "f".into(), content: "x\n".into(), expand };
    for (mark, expand) in [("<<f", true), ("<<\"f\"", false)] {
        let sources = vec![inline(expand)];
        let copied = Copy { sources, ..copy(&[], "/d") };
        assert_eq!(steps(&format!("COPY {mark} /d\nx\nf")), [Instruction::Copy(copied)]);
    }
}

#[test]
fn the_rest_is_understood_or_noted() {
    let file = parse(
        "FROM x\nMAINTAINER me\nHEALTHCHECK NONE\nONBUILD RUN x\nVOLUME /a b\nWORKDIR /a b\n\
         USER 1:2\nEXPOSE 80/tcp 90\nSTOPSIGNAL SIGINT\nSHELL [\"a\", \"-c\"]\nARG A=1 B\n\
         RUN --mount=type=cache,target=/c x",
    )
    .unwrap();
    let noted: Vec<usize> = file.notices.iter().map(|notice| notice.line).collect();
    assert_eq!(noted, [2, 3, 4, 5, 12]);
    let lines: Vec<usize> = file.stages[0].steps.iter().map(|step| step.line).collect();
    assert_eq!(lines, [5, 6, 7, 8, 9, 10, 11, 12]);
}

#[test]
fn what_is_not_known_names_its_line() {
    for (text, line) in [
        ("", 1),
        ("# nothing\n", 1),
        ("RUN x", 1),
        ("FROM", 1),
        ("FROM a as", 1),
        ("FROM a b", 1),
        ("FROM a AS 1x", 1),
        ("FROM a AS x\nFROM b AS X", 2),
        ("FROM --x=y a", 1),
        ("FROM a\n\nFOO x", 3),
        ("FROM a\nRUN --mount=type=secret,id=x y", 2),
        ("FROM a\nRUN --network=host y", 2),
        ("FROM a\nRUN", 2),
        ("FROM a\nRUN []", 2),
        ("FROM a\nRUN <<E\n#!/bin/x\nE", 2),
        ("FROM a\nCOPY a", 2),
        ("FROM a\nCOPY --foo=1 a b", 2),
        ("FROM a\nCOPY --from a b", 2),
        ("FROM a\nADD --from=x a b", 2),
        ("FROM a\nADD https://x/y /z", 2),
        ("FROM a\nENV a", 2),
        ("FROM a\nENV a=1 b", 2),
        ("FROM a\nENV =1", 2),
        ("FROM a\nARG", 2),
        ("FROM a\nWORKDIR", 2),
        ("FROM a\nEXPOSE", 2),
        ("FROM a\nSHELL /bin/sh", 2),
    ] {
        assert_eq!(refusal(text).line, line, "{text:?}");
    }
    assert_eq!(refusal(&"#".repeat(DOCKERFILE_MAX + 1)).line, 1);
    assert!(refusal(&format!("FROM a\n{}", "RUN x\n".repeat(STEPS_MAX))).message.contains("more"));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_of_known_words_panics(
        words in proptest::collection::vec(
            prop::sample::select(vec![
                "FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "AS", "CMD", "SHELL", "VOLUME",
                "--from=", "--mount=type=cache", "<<E", "E", "\n", "\\\n", " ", "[", "\"", "]", ",",
                "'", "a", "a=b", "=", "$a", "${", "#", "#escape=`\n", "://", "é",
            ]),
            0..40,
        ),
    ) {
        let _ = parse(&words.concat());
        if let Ok(file) = parse(&words.join(" ")) {
            prop_assert!(!file.stages.is_empty());
        }
    }
}

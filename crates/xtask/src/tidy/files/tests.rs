use super::*;

fn problems(path: &str, text: &str) -> Vec<String> {
    check(&TextFile { path: path.into(), text: text.into() })
}

#[test]
fn a_plain_file_passes() {
    assert_eq!(problems("src/a.rs", "fn f() {}\n"), [""; 0]);
    assert_eq!(problems("src/lib.rs", "//! What.\n"), [""; 0]);
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let code = "fn f() {}\n".repeat(LINES_MAX);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
    assert_eq!(problems("src/a.rs", &format!("{code}{tests}")), [""; 0]);
    let found = problems("src/a.rs", &format!("{code}\n{tests}"));
    assert_eq!(found, ["src/a.rs:501: 501 lines without tests; 500 are allowed"]);
    let much = format!("{code}{code}");
    assert_eq!(problems("src/a/tests.rs", &much), [""; 0]);
    assert_eq!(problems("tests/all.rs", &much).len(), 1);
    assert_eq!(problems("crates/a/tests/all.rs", &much), [""; 0]);
    assert_eq!(problems("docs/a.md", &much), [""; 0]);
}

#[test]
fn a_module_without_its_opening_is_found() {
    for name in ["lib.rs", "main.rs", "mod.rs"] {
        let found = problems(&format!("src/{name}"), "// What.\nfn f() {}\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("does not begin with a //! comment"), "{found:?}");
    }
    assert_eq!(problems("src/domain.rs", "fn f() {}\n"), [""; 0]);
}

#[test]
fn unfinished_code_is_found() {
    for word in UNFINISHED_CODE {
        let found = problems("src/a.rs", &format!("fn f() {{}}\n    {word}\n"));
        assert_eq!(found.len(), 1, "{word}: {found:?}");
        assert!(found[0].starts_with("src/a.rs:2: "), "{found:?}");
        assert_eq!(problems("docs/a.md", word), [""; 0]);
    }
}

#[test]
fn unfinished_text_is_found_and_words_that_look_like_it_are_not() {
    for word in UNFINISHED_TEXT {
        for path in ["src/a.rs", "docs/a.md", "Makefile"] {
            assert_eq!(problems(path, &format!("# {word}: later\n")).len(), 1, "{path}");
        }
        assert_eq!(problems("docs/a.md", &format!("{word}S my_{word}")), [""; 0]);
    }
}

#[test]
fn paths_of_one_machine_are_found() {
    for path in MACHINE_PATHS {
        assert_eq!(problems("docs/a.md", &format!("see {path}x")).len(), 1, "{path}");
        assert_eq!(problems("Makefile", &format!("DIR={path}x")).len(), 1, "{path}");
        assert_eq!(problems("docs/a.md", &format!("in guest{path}x")), [""; 0], "{path}");
    }
}

#[test]
fn a_package_from_elsewhere_is_found() {
    let public = format!("[[package]]\nname = \"a\"\nsource = \"{REGISTRY}\"\n");
    assert_eq!(problems("Cargo.lock", &public), [""; 0]);
    let found = problems("Cargo.lock", &public.replace("github.com", "mirror.invalid"));
    assert_eq!(found, ["Cargo.lock:3: a package does not come from the public registry"]);
}

use super::*;

#[test]
fn modes_are_octal() {
    assert_eq!(parse_mode("0644").unwrap(), 0o644);
    assert_eq!(parse_mode("4755").unwrap(), 0o4755);
    for bad in ["", "+644", "0o644", "888", "17777", "rw"] {
        assert!(parse_mode(bad).is_err(), "{bad}");
    }
}

#[test]
fn paths_are_absolute() {
    assert_eq!(queried_path(Some("/a b".into())).unwrap(), "/a b");
    for (bad, code) in [
        (None, ErrorCode::InvalidRequest),
        (Some(""), ErrorCode::PathNotAbsolute),
        (Some("etc/passwd"), ErrorCode::PathNotAbsolute),
        (Some("/a\0"), ErrorCode::InvalidRequest),
    ] {
        assert_eq!(queried_path(bad.map(str::to_owned)).unwrap_err().code, code, "{bad:?}");
    }
}

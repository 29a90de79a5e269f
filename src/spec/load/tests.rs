//! Files that extend others, circles, and what cannot be read.

use super::super::to_yaml;
use super::*;

/// Writes the files into a folder of their own and loads the first; errors come back without the folder's name.
fn load_files(files: &[(&str, &str)]) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let prefix = format!("{}/", folder.path().display());
    match load(&folder.path().join(files[0].0), &[]) {
        Ok(document) => Ok(to_yaml(&document.root).unwrap()),
        Err(problems) => Err(problems.to_string().replace(&prefix, "")),
    }
}

#[test]
fn the_child_lies_over_its_bases() {
    let files = [
        (
            "study.toml",
            "extends = [\"base/one.toml\", \"two.yaml\"]\n[stages.steer]\nalpha = [9]\nseed = 1\n",
        ),
        (
            "base/one.toml",
            "extends = \"zero.toml\"\n[stages.steer]\nalpha = [1, 2]\nlayer = 3\nsite = \"a\"\n",
        ),
        ("base/zero.toml", "name = \"zero\"\n"),
        ("two.yaml", "stages:\n  steer:\n    layer: 4\n"),
    ];
    let expected = "name: zero\nstages:\n  steer:\n    alpha:\n    - 9\n    layer: 4\n    site: a\n    seed: 1\n";
    assert_eq!(load_files(&files), Ok(expected.into()));
}

#[test]
fn values_keep_the_folder_of_their_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("base")).unwrap();
    fs::write(folder.path().join("base/b.toml"), "path = \"p.jsonl\"\n").unwrap();
    let study = folder.path().join("study.toml");
    fs::write(&study, "extends = \"base/b.toml\"\n").unwrap();
    let document = load(&study, &[]).unwrap();
    let node = document.root.as_table().unwrap().get("path").unwrap();
    let path = document.sources.resolve_path(&node.at, "p.jsonl");
    assert_eq!(path, folder.path().join("base/p.jsonl"));
}

/// Twenty-five files of which each names the next in three ways would be read 3^25 times.
#[test]
fn a_file_is_read_once_however_often_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for level in 0..25 {
        let next = level + 1;
        let link = folder.path().join(format!("l{next}.toml"));
        std::os::unix::fs::symlink(format!("f{next}.toml"), link).unwrap();
        let text = format!(
            "extends = [\"f{next}.toml\", \"./f{next}.toml\", \"l{next}.toml\"]\nx{level} = 1\n"
        );
        fs::write(folder.path().join(format!("f{level}.toml")), text).unwrap();
    }
    fs::write(folder.path().join("f25.toml"), "y = 2\n").unwrap();
    let document = load(&folder.path().join("f0.toml"), &[]).unwrap();
    assert_eq!(document.sources.files().count(), 26);
    assert_eq!(document.root.as_table().unwrap().iter().count(), 26);
}

/// Paths in a linked file start from where the link lies.
#[test]
fn a_link_in_another_folder_is_another_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    fs::write(folder.path().join("in/b.toml"), "path = \"p\"\n").unwrap();
    std::os::unix::fs::symlink("in/b.toml", folder.path().join("b.toml")).unwrap();
    let resolved = |order: &str| {
        let study = folder.path().join("study.toml");
        fs::write(&study, format!("extends = {order}\n")).unwrap();
        let document = load(&study, &[]).unwrap();
        let node = document.root.as_table().unwrap().get("path").unwrap();
        document.sources.resolve_path(&node.at, "p")
    };
    assert_eq!(
        resolved("[\"b.toml\", \"in/b.toml\"]"),
        folder.path().join("in/p")
    );
    assert_eq!(
        resolved("[\"in/b.toml\", \"b.toml\"]"),
        folder.path().join("p")
    );
}

#[test]
fn extends_names_so_many_files_and_no_more() {
    let names = |count: usize| -> String {
        let names = (0..count).map(|number| format!("\"{}b.toml\"", "./".repeat(number)));
        format!("extends = [{}]\n", names.collect::<Vec<_>>().join(", "))
    };
    let of = |count| load_files(&[("a.toml", &names(count)), ("b.toml", "x = 1\n")]);
    assert_eq!(of(100), Ok("x: 1\n".into()));
    let message = of(101).unwrap_err();
    assert!(
        message.starts_with("error: `extends` names files more than 100 times\n --> a.toml:1:"),
        "{message}"
    );
}

#[test]
fn a_study_is_so_long_with_all_that_it_extends() {
    let long = "#".repeat(9 << 20);
    let message = load_files(&[
        ("a.toml", &format!("extends = \"b.toml\"\n{long}")),
        ("b.toml", &long),
    ]);
    let message = message.unwrap_err();
    let first = message.lines().next().unwrap();
    assert_eq!(
        first,
        "error: cannot read `b.toml`: a study is at most 16 MiB long, with the files that it extends"
    );
}

#[test]
fn a_circle_is_drawn() {
    let files = [
        ("a.toml", "extends = \"b.toml\"\n"),
        ("b.toml", "# base\nextends = [\"a.toml\"]\n"),
    ];
    let expected = "\
error: `extends` runs in a circle: a.toml -> b.toml -> a.toml
 --> b.toml:2:12
  |
2 | extends = [\"a.toml\"]
  |            ^^^^^^^^ closes the circle";
    assert_eq!(load_files(&files), Err(expected.into()));
}

#[test]
fn a_base_that_cannot_be_read_is_named_where_it_is_written() {
    let files = [
        ("a.toml", "extends = [\"c.toml\", \"notes.txt\"]\n"),
        ("notes.txt", ""),
    ];
    let expected = "\
error: cannot read `c.toml`: there is no such file
 --> a.toml:1:12
  |
1 | extends = [\"c.toml\", \"notes.txt\"]
  |            ^^^^^^^^ named here

error: cannot read `notes.txt`: a study file ends in `.toml`, `.yaml` or `.yml`
 --> a.toml:1:22
  |
1 | extends = [\"c.toml\", \"notes.txt\"]
  |                      ^^^^^^^^^^^ named here";
    assert_eq!(load_files(&files), Err(expected.into()));
}

#[test]
fn a_study_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |name: &str| {
        let path = folder.path().join(name);
        let text = load(&path, &[]).unwrap_err().to_string();
        text.replace(&format!("{}/", folder.path().display()), "")
    };
    fs::write(folder.path().join("bad.toml"), b"a = 1\nb = \"\xff\"\n").unwrap();
    fs::create_dir(folder.path().join("dir.toml")).unwrap();
    assert_eq!(
        message("none.toml"),
        "error: cannot read `none.toml`: there is no such file"
    );
    assert_eq!(
        message("bad.toml"),
        "error: cannot read `bad.toml`: line 2 is not UTF-8 text"
    );
    assert_eq!(
        message("dir.toml"),
        "error: cannot read `dir.toml`: it is a folder, not a file"
    );
}

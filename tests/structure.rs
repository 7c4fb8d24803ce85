//! The map in `lib.rs`, held against the source.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

/// The wings from left to right. Each imports only those to its left; `server` puts them together.
const WINGS: [&str; 8] = [
    "wire", "config", "net", "hub", "client", "ops", "commands", "server",
];

/// A file of `src`, less comments and tests.
struct Source {
    /// Its path from `src` on.
    file: String,
    /// The module that it is, as its names from the root of the crate.
    module: Vec<String>,
    code: String,
}

/// All files of `src` that are not of tests alone.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut of_tests = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let file = path.strip_prefix(&root).unwrap();
                let code = fs::read_to_string(&path).unwrap();
                let source = Source::new(file, &code);
                for of_test in modules_of_tests(&code) {
                    of_tests.push([&source.module[..], &[of_test]].concat());
                }
                sources.push(source);
            }
        }
    }
    let is_of_tests = |source: &Source| of_tests.iter().any(|of| source.module.starts_with(of));
    sources.retain(|source| !is_of_tests(source));
    sources
}

/// The modules with a file of their own that only tests have.
fn modules_of_tests(code: &str) -> Vec<String> {
    let after = code.split("#[cfg(test)]\n").skip(1);
    let declarations = after.filter_map(|rest| {
        let line = rest
            .lines()
            .map(str::trim)
            .find(|line| !line.starts_with('#'))?;
        let (_, name) = line.strip_suffix(';')?.rsplit_once("mod ")?;
        Some(name.to_owned())
    });
    declarations.collect()
}

impl Source {
    fn new(file: &Path, code: &str) -> Source {
        let code = code.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().map(|line| line.split("//").next().unwrap());
        let path = file.with_extension("");
        let names = path.iter().map(|name| name.to_str().unwrap());
        Source {
            file: file.display().to_string(),
            module: names
                .filter(|name| *name != "mod")
                .map(str::to_owned)
                .collect(),
            code: lines.collect::<Vec<_>>().join("\n"),
        }
    }

    /// What it names of the crate, by the names from its root.
    fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        for (at, found) in self.code.match_indices("use ") {
            let before = self.code[..at].rsplit('\n').next().unwrap().trim();
            let is_of_tests = self.code[..at].trim_end().ends_with("#[cfg(test)]");
            if (before.is_empty() || before.starts_with("pub")) && !is_of_tests {
                let tree = self.code[at + found.len()..].split(';').next().unwrap();
                expand(&mut Vec::new(), tree, &mut paths);
            }
        }
        let mut paths: Vec<_> = paths.into_iter().map(|path| self.rooted(path)).collect();
        for (at, found) in self.code.match_indices("crate::") {
            if self.code[..at].ends_with("pub(in ") {
                // Who may see it, which it does not import.
                continue;
            }
            let path: Vec<_> = names(&self.code[at + found.len()..]);
            paths.push(path);
        }
        paths
    }

    /// A path of an import as it is from the root. One of another crate leads nowhere.
    fn rooted(&self, path: Vec<String>) -> Vec<String> {
        let mut base = self.module.clone();
        let mut rest = &path[..];
        match rest.first().map(String::as_str) {
            Some("crate") => return rest[1..].to_vec(),
            Some("self") => rest = &rest[1..],
            _ => {}
        }
        while rest.first().is_some_and(|name| name == "super") {
            base.pop();
            rest = &rest[1..];
        }
        [&base[..], rest].concat()
    }
}

/// The paths of an import, as in `a::{b, c::{d, e}}`.
fn expand(before: &mut Vec<String>, tree: &str, paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        paths.push(before.iter().cloned().chain(names(tree)).collect());
        return;
    };
    let depth = before.len();
    before.extend(names(head));
    let group = &group[..group.rfind('}').unwrap_or(group.len())];
    let (mut from, mut nested) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => nested += 1,
            '}' => nested -= 1,
            ',' if nested == 0 => {
                expand(before, &group[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !group[from..].trim().is_empty() {
        expand(before, &group[from..], paths);
    }
    before.truncate(depth);
}

/// The names at the beginning of a path.
fn names(path: &str) -> Vec<String> {
    let is_end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
    let path = path.trim().split(is_end).next().unwrap();
    let names = path.split("::").filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[test]
fn wings_import_only_those_to_their_left() {
    let place = |wing: &String| WINGS.iter().position(|known| known == wing);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for source in sources() {
        let Some(ours) = source.module.first().and_then(place) else {
            let is_root = ["lib.rs", "main.rs"].contains(&source.file.as_str());
            assert!(is_root, "{} is in no wing", source.file);
            continue;
        };
        seen.insert(ours);
        for path in source.paths() {
            if path
                .first()
                .and_then(place)
                .is_some_and(|theirs| theirs > ours)
            {
                wrong.push(format!("{} imports {}", source.file, path.join("::")));
            }
        }
    }
    assert_eq!(seen.len(), WINGS.len(), "a wing has no file");
    assert!(wrong.is_empty(), "against the line:\n{}", wrong.join("\n"));
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = sources();
    let at_of: HashMap<&[String], usize> = sources
        .iter()
        .enumerate()
        .map(|(at, source)| (&source.module[..], at))
        .collect();
    // The longest beginning of a path that is a file is where the item is, or is passed on.
    let target = |path: &Vec<String>| {
        (1..=path.len())
            .rev()
            .find_map(|len| at_of.get(&path[..len]).copied())
    };
    let imports: Vec<BTreeSet<usize>> = sources
        .iter()
        .enumerate()
        .map(|(at, source)| {
            let targets = source
                .paths()
                .iter()
                .filter_map(target)
                .collect::<BTreeSet<_>>();
            targets.into_iter().filter(|target| *target != at).collect()
        })
        .collect();
    // Whoever imports nothing that is left is in no circle, nor is whom nothing that is left imports.
    let mut left: BTreeSet<usize> = (0..sources.len()).collect();
    loop {
        let imports_none = |at: &usize| imports[*at].is_disjoint(&left);
        let is_not_imported = |at: &usize| !left.iter().any(|other| imports[*other].contains(at));
        let is_free = |at: &usize| imports_none(at) || is_not_imported(at);
        let Some(free) = left.iter().copied().find(is_free) else {
            break;
        };
        left.remove(&free);
    }
    let files = |set: &BTreeSet<usize>| {
        let files: Vec<_> = set
            .intersection(&left)
            .map(|at| &*sources[*at].file)
            .collect();
        files.join(", ")
    };
    let circles: Vec<_> = left
        .iter()
        .map(|at| format!("{} imports {}", sources[*at].file, files(&imports[*at])))
        .collect();
    assert!(circles.is_empty(), "in circles:\n{}", circles.join("\n"));
}

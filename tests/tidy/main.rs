//! The house rules that a compiler does not check: which module may import which, lengths, no sleeping or ignored
//! tests, where `unsafe` may be, and that documents say what the code does.
//!
//! Sources are parsed with `syn`; what is inside macros is searched as tokens. Every rule names all its offenders.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail like the test itself")]

mod imports;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use thousandx::config::table;
use thousandx::error::Reject;

/// Longest file, in lines.
const FILE_LINES_MAX: usize = 400;

/// Longest function, from its name to its closing brace, in lines.
const FUNCTION_LINES_MAX: usize = 70;

/// Files, or directories, that may contain `unsafe`, and why.
const UNSAFE_ALLOWED: [(&str, &str); 3] = [
    ("src/kafka/native", "the raw producer and batch consumer; rdkafka's safe ones cost 1.6 to 2.5 times more"),
    ("src/memory.rs", "an option of mimalloc; what it gives: Huge pages, in BENCHMARKS.md"),
    ("src/scheduling.rs", "sched_setscheduler(2); what it gives: Scheduling, in BENCHMARKS.md"),
];

/// A source file, parsed.
struct Source {
    /// From the root of the repository, e.g. `src/http/route.rs`.
    path: String,
    text: String,
    syntax: syn::File,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources under the given directories, in order of path.
fn sources(directories: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for directory in directories {
        collect(&root().join(directory), &mut paths);
    }
    paths.sort();
    assert!(!paths.is_empty(), "no sources under {directories:?}");
    let parse = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Source { path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text, syntax }
    };
    paths.into_iter().map(parse).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let is_output = path.file_name().is_some_and(|name| name == "target");
        match path.extension() {
            _ if path.is_dir() && !is_output => collect(&path, paths),
            Some(extension) if extension == "rs" => paths.push(path),
            _ => {}
        }
    }
}

/// Fails with every offence, one a line.
fn report(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

// === lengths ===

#[test]
fn files_and_functions_fit_the_reader() {
    let mut offences = Vec::new();
    for source in sources(&["src", "tests", "benches", "fuzz"]) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            offences.push(format!("{} has {lines} lines, of at most {FILE_LINES_MAX}", source.path));
        }
        let mut functions = Functions(Vec::new());
        functions.visit_file(&source.syntax);
        for (name, lines) in functions.0.into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX) {
            offences.push(format!("{}: {name} has {lines} lines, of at most {FUNCTION_LINES_MAX}", source.path));
        }
    }
    report("files and functions are short", &offences);
}

struct Functions(Vec<(String, usize)>);

impl Functions {
    fn note(&mut self, name: &syn::Ident, block: &syn::Block) {
        self.0.push((name.to_string(), block.span().end().line - name.span().start().line + 1));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.note(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

// === tests do not sleep, and none is switched off ===

#[test]
fn tests_do_not_sleep_and_none_is_ignored() {
    let mut offences = Vec::new();
    for source in sources(&["src", "tests"]) {
        let mut sleeps = Sleeps { in_test: source.path.starts_with("tests/"), found: vec![], ignored: vec![] };
        sleeps.visit_file(&source.syntax);
        let lines: Vec<&str> = source.text.lines().collect();
        // A poll says what bounds it; a sleep that is part of the load (the work of a request) says so.
        let is_explained = |l: &&str| l.contains("// bounded poll:") || l.contains("// workload:");
        let is_bounded = |line: usize| lines[line.saturating_sub(2)..line].iter().any(is_explained);
        for line in sleeps.found.into_iter().filter(|line| !is_bounded(*line)) {
            offences.push(format!("{}:{line} sleeps; wait for the event, or say `// bounded poll: …`", source.path));
        }
        offences.extend(sleeps.ignored.into_iter().map(|line| format!("{}:{line} is ignored", source.path)));
    }
    report("tests neither sleep nor are ignored", &offences);
}

/// Lines of sleeps in tests and of ignored tests; lines count from 1.
struct Sleeps {
    in_test: bool,
    found: Vec<usize>,
    ignored: Vec<usize>,
}

impl<'ast> Visit<'ast> for Sleeps {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let outside = self.in_test;
        self.in_test |= item.attrs.iter().any(is_cfg_test);
        visit::visit_item_mod(self, item);
        self.in_test = outside;
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let conditional = attribute.path().is_ident("cfg_attr") && tokens_of(attribute).iter().any(|t| t == "ignore");
        if attribute.path().is_ident("ignore") || conditional {
            self.ignored.push(attribute.span().start().line);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if self.in_test && path.segments.last().is_some_and(|last| last.ident == "sleep") {
            self.found.push(path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if self.in_test {
            let mut flat = Vec::new();
            flatten(call.tokens.clone(), &mut flat);
            self.found.extend(flat.iter().filter(|(word, _)| word == "sleep").map(|(_, line)| *line));
        }
        visit::visit_macro(self, call);
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg") && tokens_of(attribute).iter().any(|token| token == "test")
}

fn tokens_of(attribute: &syn::Attribute) -> Vec<String> {
    let syn::Meta::List(list) = &attribute.meta else { return vec![] };
    let mut flat = Vec::new();
    flatten(list.tokens.clone(), &mut flat);
    flat.into_iter().map(|(word, _)| word).collect()
}

/// The identifiers of a token stream, at every depth, with their lines.
fn flatten(tokens: TokenStream, into: &mut Vec<(String, usize)>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => into.push((ident.to_string(), ident.span().start().line)),
            TokenTree::Group(group) => flatten(group.stream(), into),
            _ => {}
        }
    }
}

// === unsafe ===

#[test]
fn unsafe_code_is_where_it_may_be() {
    let mut offences = Vec::new();
    for source in sources(&["src", "tests", "benches", "fuzz"]) {
        if UNSAFE_ALLOWED.iter().any(|(path, _)| source.path.starts_with(path)) {
            continue;
        }
        let mut words = Vec::new();
        flatten(source.text.parse().unwrap(), &mut words);
        let unsafe_words = words.into_iter().filter(|(word, _)| word == "unsafe" || word == "unsafe_code");
        offences.extend(unsafe_words.map(|(_, line)| format!("{}:{line}", source.path)));
    }
    report("only the files in UNSAFE_ALLOWED contain unsafe", &offences);
}

// === documents ===

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What `thousandx config <flag>` prints.
fn printed(flag: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_thousandx")).args(["config", flag]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The part of the README between two markers, and what is to be there.
fn check_readme(marker: &str, flag: &str) {
    let readme = document("README.md");
    let (begin, end) = (format!("<!-- {marker}:begin -->"), format!("<!-- {marker}:end -->"));
    let inside = readme.split_once(&begin).and_then(|(_, after)| after.split_once(&end)).map(|(inside, _)| inside);
    let inside = inside.unwrap_or_else(|| panic!("README.md has no {begin} … {end}"));
    let hint =
        format!("README.md between {begin} and {end} is not what `thousandx config {flag}` prints; run `just docs`");
    assert_eq!(inside.trim(), printed(flag).trim(), "{hint}");
}

#[test]
fn the_readme_has_every_setting() {
    check_readme("settings", "--markdown");
}

#[test]
fn the_readme_has_every_status_and_code() {
    check_readme("codes", "--markdown-codes");
    let rows: BTreeMap<String, u16> = printed("--markdown-codes")
        .lines()
        .filter_map(|row| row.strip_prefix("| ")?.split_once(" | `"))
        .filter_map(|(status, rest)| Some((rest.split_once('`')?.0.to_owned(), status.parse().ok()?)))
        .collect();
    let expected = Reject::every().iter().map(|reject| (reject.fate().code.to_owned(), reject.fate().status)).collect();
    assert_eq!(rows, expected, "the table has each code with its status, once");
}

#[test]
fn the_env_example_has_every_setting_with_its_default_unit_and_reason() {
    let example = document(".env.example");
    assert_eq!(example, printed("--env-example"), "run `just docs`");
    let mut settings = table::all();
    let mut comments: Vec<&str> = Vec::new();
    for line in example.lines() {
        match line.strip_prefix('#') {
            Some(comment) if comment.starts_with(' ') => comments.push(comment),
            Some(assignment) => {
                let setting = settings.next().expect("one more line than settings");
                assert_eq!(assignment, format!("{}={}", setting.name, setting.default));
                let (value, reason) = comments.split_last().expect("a comment");
                assert!(value.contains(&setting.unit_and_range()) && !reason.is_empty(), "{}", setting.name);
            }
            None => comments.clear(),
        }
    }
    assert!(settings.next().is_none(), "a setting is missing");
}

#[test]
fn the_changelog_starts_with_this_version_or_what_comes_next() {
    let changelog = document("CHANGELOG.md");
    let head = changelog.lines().find_map(|line| line.strip_prefix("## ")).expect("a heading");
    let version = head.split_whitespace().next().unwrap_or_default().trim_matches(['[', ']']);
    assert!(["Unreleased", env!("CARGO_PKG_VERSION")].contains(&version), "the first heading is {head:?}");
}

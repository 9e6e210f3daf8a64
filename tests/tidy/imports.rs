//! Imports point downwards: which module of `src` may name which.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::{Source, report, sources};

/// May be imported by every module except `correlate`, and import each other only.
const SHARED: [&str; 4] = ["error", "config", "lifecycle", "observe"];

/// What each module may import besides itself and [`SHARED`]: downwards only. A longer path allows just that part.
const IMPORTS: [(&str, &[&str]); 13] = [
    ("main", &["cmd"]),
    ("cmd", &["net", "http", "admit", "kafka", "worker", "correlate", "scheduling"]),
    ("net", &["http", "admit", "kafka", "correlate"]),
    ("http", &["admit", "kafka::submit", "kafka::wire", "correlate"]),
    ("worker", &["kafka", "correlate"]),
    ("admit", &["correlate"]),
    ("kafka", &["correlate"]),
    ("correlate", &[]),
    ("scheduling", &[]),
    ("config", &[]),
    ("error", &[]),
    ("lifecycle", &[]),
    ("observe", &[]),
];

#[test]
fn imports_point_downwards() {
    let mut offences = Vec::new();
    for source in sources(&["src"]) {
        let module = module_path(&source.path);
        let Some(own) = module.first().cloned().filter(|name| name != "lib") else { continue };
        for target in imports(&source, &module) {
            if !may_import(&own, &target) {
                offences.push(format!("{} imports crate::{}", source.path, target.join("::")));
            }
        }
    }
    report("imports point downwards only (see IMPORTS in this test)", &offences);
}

#[test]
fn the_import_rule_sees_every_way_to_import() {
    let text = "
        use crate::net::{conn, socket::Socket};
        use super::super::worker::run;
        mod tests { use super::super::route; fn f() { super::super::super::kafka::wire::g(); } }
        fn f() { let _: crate::http::queue::Queue; println!(\"{}\", crate::admit::local::N); }";
    let source = Source { path: "src/http/route.rs".into(), text: text.into(), syntax: syn::parse_file(text).unwrap() };
    let seen: BTreeSet<String> =
        imports(&source, &module_path(&source.path)).iter().map(|path| path[..2].join("::")).collect();
    let expected =
        ["admit::local", "http::queue", "http::route", "kafka::wire", "net::conn", "net::socket", "worker::run"];
    assert_eq!(seen, expected.map(String::from).into());
    let forbidden =
        |own: &str, target: &str| !may_import(own, &target.split("::").map(String::from).collect::<Vec<_>>());
    assert!(forbidden("http", "kafka::replies") && !forbidden("http", "kafka::wire::Task"));
    assert!(forbidden("kafka", "http::queue") && forbidden("correlate", "error") && forbidden("observe", "admit"));
}

/// `src/http/route.rs` → `[http, route]`, `src/http/mod.rs` → `[http]`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "mod").map(String::from).collect()
}

fn may_import(own: &str, target: &[String]) -> bool {
    let Some(first) = target.first() else { return true };
    // `correlate` is to be usable, and loom-tested, without the rest.
    if first == own || (SHARED.contains(&first.as_str()) && own != "correlate") {
        return true;
    }
    let Some((_, allowed)) = IMPORTS.iter().find(|(module, _)| *module == own) else { return false };
    allowed.iter().any(|allowed| {
        let mut parts = allowed.split("::").zip(target);
        parts.all(|(allowed, part)| allowed == part) && target.len() >= allowed.split("::").count()
    })
}

/// Everything of the crate that a file names, as absolute paths.
fn imports(source: &Source, module: &[String]) -> BTreeSet<Vec<String>> {
    let mut imports = Imports { module: module.to_vec(), found: BTreeSet::new() };
    imports.visit_file(&source.syntax);
    imports.found
}

struct Imports {
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
}

impl Imports {
    /// Notes a path if it leads into the crate; `super` counts from the module that the code is in.
    fn note(&mut self, path: &[String]) {
        let mut absolute = match path.first().map(String::as_str) {
            Some("crate" | "thousandx") => Vec::new(),
            Some("super" | "self") => self.module.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "super" => drop(absolute.pop()),
                "crate" | "thousandx" | "self" => {}
                part => absolute.push(part.to_owned()),
            }
        }
        if !absolute.is_empty() {
            self.found.insert(absolute);
        }
    }

    fn note_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let longer = |ident: &syn::Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.note_tree(&longer(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.note(&longer(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(&longer(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(prefix),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(prefix, tree)),
        }
    }

    /// Paths inside a macro call: identifiers joined by `::`.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.note(&std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.note_tokens(group.stream());
                    }
                }
            }
        }
        self.note(&path);
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&parts);
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.note_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

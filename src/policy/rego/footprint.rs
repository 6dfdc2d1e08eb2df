//! What policies look at: read from their syntax trees at load, so that requests are told apart by no more.
//!
//! All that a policy knows of a request it has from `input`. So each mention of `input`, or of what an
//! import makes of it, counts: with the names that are taken out of it there and then, it is a part, and
//! all within that part is taken as looked at. A value that is handed on, indexed by a variable or put in by
//! `with` was mentioned where it came from. That a rule is never asked makes no difference.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::syntax::{self, Import, path, taken};
use crate::request::{AddressRead, Reads};

/// Builtins whose value is another one each time, or with time.
const CHANGING: [&[&str]; 4] =
    [&["io", "jwt", "decode_verify"], &["rand", "intn"], &["time", "now_ns"], &["uuid", "rfc4122"]];

/// What all policies together look at.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    headers: BTreeSet<String>,
    query: bool,
    body: bool,
    ip: bool,
    ranges: BTreeSet<IpNet>,
    /// Whether more is looked at, or something that a request doesn't tell.
    more: bool,
}

impl Footprint {
    /// Of `modules`, regorus' syntax trees as JSON.
    pub(super) fn of(modules: &[Json]) -> Self {
        let mut footprint = Self::default();
        for module in modules {
            let imports: Option<Vec<_>> = syntax::imports(module).collect();
            match (module.pointer("/ast/rules"), imports) {
                (Some(rules), Some(imports)) => footprint.visit(rules, &imports),
                _ => footprint.more = true,
            }
        }
        footprint
    }

    /// What requests are told apart by; `None` where that would not tell all apart that policies do.
    pub(super) fn reads(&self) -> Option<Reads> {
        let source_ip = match (self.ip, self.ranges.is_empty()) {
            (true, _) => AddressRead::Whole,
            (false, true) => AddressRead::Unread,
            (false, false) => AddressRead::within(&self.ranges),
        };
        let Self { query, body, .. } = *self;
        let reads = Reads { headers: self.headers.clone(), query, body, source_ip };
        (!self.more).then_some(reads)
    }

    fn visit(&mut self, tree: &Json, imports: &[Import]) {
        match tree {
            Json::Array(items) => items.iter().for_each(|item| self.visit(item, imports)),
            Json::Object(_) => self.visit_object(tree, imports),
            _ => {}
        }
    }

    fn visit_object(&mut self, tree: &Json, imports: &[Import]) {
        if let Some(range) = source_in_range(tree, imports) {
            self.ranges.insert(range);
            return;
        }
        let (root, names) = names_from(tree);
        if let Some(variable) = root.get("Var") {
            match variable.get("value").and_then(Json::as_str) {
                Some(name) => self.mention(name, &names, imports),
                None => self.more = true,
            }
        } else if let Json::Object(members) = root {
            members.values().for_each(|member| self.visit(member, imports));
        }
    }

    /// Adds `name.names`.
    fn mention(&mut self, name: &str, names: &[&str], imports: &[Import]) {
        self.more |= CHANGING.iter().any(|changing| {
            changing.split_first().is_some_and(|(first, rest)| *first == name && *rest == *names)
        });
        for part in parts_of_input(name, names, imports) {
            self.add(&part);
        }
    }

    /// Adds the part of `input` that is at `part`.
    fn add(&mut self, part: &[&str]) {
        match part {
            // What these hold follows from what requests are always told apart by, and from the credential.
            ["version" | "parsed_path" | "placet", ..]
            | ["attributes", "source", "principal" | "certificate", ..]
            | ["attributes", "request", "http", "method" | "scheme" | "host", ..]
            | [
                "attributes",
                "request",
                "http",
                "headers",
                ":authority" | ":method" | ":scheme",
                ..,
            ] => {}
            ["parsed_query", ..]
            | ["attributes", "request", "http", "path", ..]
            | ["attributes", "request", "http", "headers", ":path", ..] => self.query = true,
            ["attributes", "request", "http", "headers", name, ..] => {
                self.headers.insert((*name).to_owned());
            }
            ["attributes", "source", "address", "socketAddress", "address", ..] => self.ip = true,
            ["parsed_body" | "truncated_body", ..]
            | ["attributes", "request", "http", "body" | "rawBody", ..] => self.body = true,
            _ => self.more = true,
        }
    }
}

/// An expression without the names that are taken out of it, and those names.
fn names_from(mut expression: &Json) -> (&Json, Vec<&str>) {
    let mut names = Vec::new();
    while let Some((refr, name)) = taken(expression) {
        names.push(name);
        expression = refr;
    }
    names.reverse();
    (expression, names)
}

/// What `name.names` is of `input`, if it is.
fn parts_of_input<'a>(
    name: &'a str,
    names: &'a [&'a str],
    imports: &'a [Import],
) -> impl Iterator<Item = Vec<&'a str>> {
    let itself = (name == "input").then(|| names.to_vec());
    let imported = imports.iter().filter(move |import| import.name == name);
    let imported = imported.filter_map(move |import| {
        let (root, rest) = import.target.split_first()?;
        let rest = rest.iter().map(String::as_str);
        (root == "input").then(|| rest.chain(names.iter().copied()).collect())
    });
    itself.into_iter().chain(imported)
}

/// The range in `net.cidr_contains("…", input.attributes.source.address.socketAddress.address)`.
fn source_in_range(tree: &Json, imports: &[Import]) -> Option<IpNet> {
    let call = tree.get("Call")?;
    let [range, address] = call.get("params")?.as_array()?.as_slice() else { return None };
    let (root, names) = names_from(address);
    let name = root.pointer("/Var/value")?.as_str()?;
    let mut parts = parts_of_input(name, &names, imports);
    let is_source =
        parts.any(|part| part == ["attributes", "source", "address", "socketAddress", "address"]);
    let is_asked = is_source && path(call.get("fcn")?)? == "net.cidr_contains";
    range.pointer("/String/value")?.as_str()?.parse().ok().filter(|_| is_asked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::rego::{RegoError, calls};

    const MODULE: &str = "package envoy.authz
        import input.attributes.request.http as http_request
        import input.parsed_path
        import data.input as ours
    ";

    fn trees(module: String) -> Vec<Json> {
        let mut engine = regorus::Engine::new();
        engine.add_policy("p.rego".to_owned(), module).unwrap();
        serde_json::from_str(&engine.get_ast_as_json().unwrap()).unwrap()
    }

    fn of(rules: &str) -> Footprint {
        Footprint::of(&trees(format!("{MODULE}\n{rules}")))
    }

    fn read(headers: &[&str], query: bool, source_ip: AddressRead) -> Reads {
        let headers = headers.iter().map(|name| (*name).to_owned()).collect();
        Reads { headers, query, source_ip, body: false }
    }

    #[test]
    fn what_is_mentioned_is_read() {
        let range: IpNet = "10.0.0.0/8".parse().unwrap();
        let source = "input.attributes.source.address.socketAddress.address";
        for (rules, expected) in [
            ("allow := true", Reads::default()),
            ("allow if ours.input.x == data.input.y", Reads::default()),
            ("allow if http_request.method == \"GET\"", Reads::default()),
            ("allow if parsed_path[0] == \"a\"", Reads::default()),
            ("allow if some part in input.parsed_path", Reads::default()),
            ("allow if \"a\" in input.placet.principal.groups", Reads::default()),
            ("allow if input[\"attributes\"].source.principal", Reads::default()),
            ("allow if http_request.headers[\":authority\"] == \"a\"", Reads::default()),
            ("allow if http_request.path == \"/a\"", read(&[], true, AddressRead::Unread)),
            ("allow if input.parsed_query.a[_] == \"1\"", read(&[], true, AddressRead::Unread)),
            (
                "allow if input.attributes.request.http.headers[\":path\"] == \"/a\"",
                read(&[], true, AddressRead::Unread),
            ),
            (
                "allow if f(http_request.headers.a)\nf(x) if { y := http_request.headers[\"x-b\"]; y == x }",
                read(&["a", "x-b"], false, AddressRead::Unread),
            ),
            (&format!("allow if {source} == \"::1\""), read(&[], false, AddressRead::Whole)),
            (
                &format!("allow if not net.cidr_contains(\"10.0.0.0/8\", {source})"),
                read(&[], false, AddressRead::Ranges(vec![range])),
            ),
            (
                &format!("allow if net.cidr_contains(\"no range\", {source})"),
                read(&[], false, AddressRead::Whole),
            ),
            (
                &format!("allow if net.cidr_contains(data.range, {source})"),
                read(&[], false, AddressRead::Whole),
            ),
            (
                &format!(
                    "allow if net.cidr_contains(\"10.0.0.0/8\", {source})\nx if startswith({source}, \"10.\")"
                ),
                read(&[], false, AddressRead::Whole),
            ),
            (
                &format!("allow if net.cidr_contains(http_request.headers.a, {source})"),
                read(&["a"], false, AddressRead::Whole),
            ),
        ] {
            assert_eq!(of(rules).reads(), Some(expected), "{rules}");
        }
    }

    /// Wherever it is mentioned.
    #[test]
    fn a_body_is_read_by_whoever_mentions_it() {
        for rules in [
            "allow if input.parsed_body.a",
            "allow if input.truncated_body",
            "allow if input[\"parsed_body\"]",
            "allow if count([1 | input.parsed_body]) > 0",
            "allow := {\"allowed\": true, \"headers\": {\"x-body\": input.parsed_body.a}}",
            "default allow := false\nallow if { not input.parsed_body.a }",
            "allow if true\nelse if input.parsed_body.a",
            "allow contains x if x := input.parsed_body.a",
            "allow[input.parsed_body.a] := 1 if true",
            "allow if { every x in input.parsed_body.a { x } }",
            "never if input.parsed_body.a",
            "allow if http_request.body",
            "allow if http_request.rawBody",
        ] {
            let expected = Reads { body: true, ..Reads::default() };
            assert_eq!(of(rules).reads(), Some(expected), "{rules}");
        }
    }

    #[test]
    fn what_no_key_tells_apart_is_decided_each_time() {
        for rules in [
            "allow if input[`parsed_body`]",
            "allow if input[data.part].a",
            "allow if { some part; input[part] }",
            "allow if f(input)\nf(x) if x.a",
            "allow if { x := input; x.a }",
            "allow if { [path, _] := walk(input)[_]; path }",
            "allow if { data.p.x with input as {\"a\": input} }",
            "allow if { data.p.x with input.attributes.request as {\"a\": 1} }",
            "allow if input.unknown",
            "allow if input.attributes",
            "allow if input.attributes.request.time",
            "allow if input.attributes.destination",
            "allow if input.attributes.source",
            "allow if input.attributes.source.address.socketAddress.portValue",
            "allow if input.attributes.contextExtensions.a",
            "allow if input.attributes.metadataContext.filterMetadata.a",
            "allow if input.attributes.tlsSession.sni",
            "allow if http_request",
            "allow if http_request.id",
            "allow if http_request.size",
            "allow if http_request.protocol",
            "allow if http_request.headers",
            "allow if { some name; http_request.headers[name] }",
            "allow if http_request[data.part]",
            "allow if time.now_ns() > 1",
            "allow if io.jwt.decode_verify(data.a, {})[0]",
            "allow if rand.intn(\"a\", 2) == 1",
            "allow if uuid.rfc4122(\"a\") == \"a\"",
            "allow if { data.p.f(1) with data.p.f as time.now_ns }",
        ] {
            assert_eq!(of(rules).reads(), None, "{rules}");
        }
    }

    #[test]
    fn a_tree_of_another_form_is_not_taken_for_one_that_reads_nothing() {
        let imports = |import: Json| json!({"ast": {"rules": [], "imports": [import]}});
        let refr = json!({"Var": {"value": "input"}});
        for tree in [
            json!({"ast": {}}),
            imports(json!({"refr": {"Unknown": {}}})),
            imports(json!({"refr": refr, "as": {"start": 0, "end": 1}})),
        ] {
            assert_eq!(Footprint::of(std::slice::from_ref(&tree)).reads(), None, "{tree}");
        }
        let understood = imports(json!({"refr": refr}));
        assert_eq!(Footprint::of(&[understood]).reads(), Some(Reads::default()));
    }

    #[test]
    fn builtins_that_change_are_builtins() {
        for names in CHANGING {
            let rules = format!("allow if {}() == 1", names.join("."));
            let mut errors = Vec::new();
            let trees = trees(format!("{MODULE}\n{rules}"));
            calls::check(&trees, &BTreeSet::new(), &mut errors);
            let is_unknown = |error: &RegoError| matches!(error, RegoError::Undefined { .. });
            assert!(!errors.iter().any(is_unknown), "{errors:?}");
        }
    }
}

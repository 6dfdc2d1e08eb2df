//! Which functions the policies call, held against what there is.
//!
//! Regorus finds out at a request that a function does not exist, and OPA when it compiles. So do
//! we: a policy that uses a builtin we lack is refused at load, with its line.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::syntax::{self, Import, joined, path};
use super::{RegoError, builtins};

/// Builtins that regorus brings, as far as its features are switched on.
const OF_REGORUS: [&str; 116] = [
    "abs",
    "array.concat",
    "array.reverse",
    "array.slice",
    "base64.decode",
    "base64.encode",
    "base64.is_valid",
    "base64url.decode",
    "base64url.encode",
    "base64url.encode_no_pad",
    "bits.and",
    "bits.lsh",
    "bits.negate",
    "bits.or",
    "bits.rsh",
    "bits.xor",
    "ceil",
    "concat",
    "contains",
    "count",
    "endswith",
    "floor",
    "format_int",
    "glob.match",
    "glob.quote_meta",
    "graph.reachable",
    "graph.reachable_paths",
    "hex.decode",
    "hex.encode",
    "indexof",
    "indexof_n",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "json.filter",
    "json.is_valid",
    "json.marshal",
    "json.marshal_with_options",
    "json.patch",
    "json.remove",
    "json.unmarshal",
    "lower",
    "max",
    "min",
    "net.cidr_contains",
    "net.cidr_expand",
    "net.cidr_is_valid",
    "numbers.range",
    "numbers.range_step",
    "object.filter",
    "object.get",
    "object.keys",
    "object.remove",
    "object.subset",
    "object.union",
    "object.union_n",
    "product",
    "rand.intn",
    "regex.find_all_string_submatch_n",
    "regex.find_n",
    "regex.is_valid",
    "regex.match",
    "regex.replace",
    "regex.split",
    "regex.template_match",
    "replace",
    "round",
    "semver.compare",
    "semver.is_valid",
    "sort",
    "split",
    "sprintf",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.count",
    "strings.replace_n",
    "strings.reverse",
    "substring",
    "sum",
    "time.add_date",
    "time.clock",
    "time.date",
    "time.diff",
    "time.format",
    "time.parse_duration_ns",
    "time.parse_ns",
    "time.parse_rfc3339_ns",
    "time.weekday",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
    "units.parse",
    "units.parse_bytes",
    "upper",
    "urlquery.decode",
    "urlquery.decode_object",
    "urlquery.encode",
    "urlquery.encode_object",
    "uuid.parse",
    "uuid.rfc4122",
    "walk",
    "yaml.is_valid",
    "yaml.marshal",
    "yaml.unmarshal",
];

/// Builtins of OPA that are not provided, with what to do instead. The documentation lists them.
const LACKING: [(&str, &str); 58] = [
    ("all", DEPRECATED),
    ("any", DEPRECATED),
    ("array.flatten", REWRITE),
    ("cast_array", DEPRECATED),
    ("cast_boolean", DEPRECATED),
    ("cast_null", DEPRECATED),
    ("cast_object", DEPRECATED),
    ("cast_set", DEPRECATED),
    ("cast_string", DEPRECATED),
    ("crypto.hmac.md5", WEAK),
    ("crypto.md5", WEAK),
    ("crypto.parse_private_keys", REWRITE),
    ("crypto.x509.parse_and_verify_certificates", REWRITE),
    ("crypto.x509.parse_and_verify_certificates_with_options", REWRITE),
    ("crypto.x509.parse_certificate_request", REWRITE),
    ("crypto.x509.parse_certificates", REWRITE),
    ("crypto.x509.parse_keypair", REWRITE),
    ("crypto.x509.parse_rsa_private_key", REWRITE),
    ("glob.globs_match", REWRITE),
    ("graphql.is_valid", REWRITE),
    ("graphql.parse", REWRITE),
    ("graphql.parse_and_verify", REWRITE),
    ("graphql.parse_query", REWRITE),
    ("graphql.parse_schema", REWRITE),
    ("graphql.schema_is_valid", REWRITE),
    ("http.send", NETWORK),
    ("internal.print", TRACE),
    ("internal.test_case", TRACE),
    ("io.jwt.encode_sign", SIGN),
    ("io.jwt.encode_sign_raw", SIGN),
    ("io.jwt.verify_es512", "use another algorithm"),
    ("json.match_schema", REWRITE),
    ("json.verify_schema", REWRITE),
    ("net.cidr_contains_matches", "use net.cidr_contains"),
    ("net.cidr_intersects", "use net.cidr_contains"),
    ("net.cidr_merge", REWRITE),
    ("net.cidr_overlap", DEPRECATED),
    ("net.lookup_ip_addr", NETWORK),
    ("opa.runtime", "it would show policies the environment; pass what they need as data"),
    ("print", TRACE),
    ("providers.aws.sign_req", SIGN),
    ("re_match", "use regex.match"),
    ("regex.globs_match", REWRITE),
    ("rego.metadata.chain", REWRITE),
    ("rego.metadata.rule", REWRITE),
    ("rego.parse_module", REWRITE),
    ("set_diff", DEPRECATED),
    ("strings.render_template", "use sprintf"),
    ("strings.split_n", "use split"),
    ("time.nanoseconds", REWRITE),
    ("trace", TRACE),
    ("uri.is_valid", REWRITE),
    ("uri.parse", REWRITE),
    ("uuid.rfc9562", REWRITE),
    ("vault.send", NETWORK),
    ("minus", "use the operator"),
    ("plus", "use the operator"),
    ("test.sleep", TRACE),
];
const DEPRECATED: &str = "it is deprecated in OPA; write the rule without it";
const REWRITE: &str = "write the rule without it";
const WEAK: &str = "use crypto.sha256 or crypto.hmac.sha256";
const NETWORK: &str = "a decision asks nobody; pass what it needs as data or in the token";
const SIGN: &str = "policies hold no private keys";
const TRACE: &str = "a decision writes nothing; put what you want to know in `reason`";

/// Everything that is called in `modules` (regorus' syntax trees as JSON), by name; what is nowhere
/// to be found is added to `errors`. `rules` are the paths of all rules.
pub(super) fn check(
    modules: &[Json],
    rules: &BTreeSet<String>,
    errors: &mut Vec<RegoError>,
) -> BTreeSet<String> {
    let mut builtins = BTreeSet::new();
    for tree in modules {
        let Some(rules_of_module) = tree.pointer("/ast/rules") else { continue };
        let package = tree.pointer("/ast/package/refr").and_then(path).unwrap_or_default();
        let module = Module {
            file: tree.pointer("/source/file").and_then(Json::as_str).unwrap_or_default(),
            package: format!("data.{package}"),
            imports: syntax::imports(tree).flatten().collect(),
            rules,
        };
        module.visit(rules_of_module, &mut builtins, errors);
    }
    builtins
}

/// The rules that have no value but `true`: however often one holds, it can't contradict itself.
pub(super) fn only_true(modules: &[Json]) -> BTreeSet<String> {
    let (mut yes, mut others) = (BTreeSet::new(), BTreeSet::new());
    for module in modules {
        let package = module.pointer("/ast/package/refr").and_then(path).unwrap_or_default();
        let rules = module.pointer("/ast/rules").and_then(Json::as_array);
        for rule in rules.into_iter().flatten().filter_map(|rule| rule.get("Spec")) {
            let head = rule.pointer("/head/Compr").or_else(|| rule.pointer("/head/Func"));
            let Some(head) = head else { continue };
            let Some(name) = head.get("refr").and_then(path) else { continue };
            let bodies = rule.get("bodies").and_then(Json::as_array).into_iter().flatten();
            let is_true = std::iter::once(head).chain(bodies).all(|part| {
                let value = part.get("assign").unwrap_or(&Json::Null);
                value.is_null() || value.pointer("/value/Bool/value") == Some(&Json::Bool(true))
            });
            if is_true { &mut yes } else { &mut others }.insert(format!("data.{package}.{name}"));
        }
    }
    yes.difference(&others).cloned().collect()
}

struct Module<'a> {
    file: &'a str,
    package: String,
    imports: Vec<Import>,
    rules: &'a BTreeSet<String>,
}

impl Module<'_> {
    fn visit(&self, tree: &Json, builtins: &mut BTreeSet<String>, errors: &mut Vec<RegoError>) {
        match tree {
            Json::Array(items) => items.iter().for_each(|item| self.visit(item, builtins, errors)),
            Json::Object(members) => {
                if let Some(call) = members.get("Call") {
                    self.call(call, builtins, errors);
                }
                members.values().for_each(|member| self.visit(member, builtins, errors));
            }
            _ => {}
        }
    }

    fn call(&self, call: &Json, builtins: &mut BTreeSet<String>, errors: &mut Vec<RegoError>) {
        let Some(name) = call.get("fcn").and_then(path) else { return };
        let given = call.get("params").and_then(Json::as_array).map_or(0, Vec::len);
        if self.is_defined(&name) {
            return;
        }
        let line = call.pointer("/span/line").and_then(Json::as_u64).unwrap_or_default();
        let file = self.file.to_owned();
        if name == "walk" && given != 2 {
            let advice = "as a function it finds nothing; write it as `walk(x, [path, value])`";
            errors.push(RegoError::Builtin { file, line, name, advice });
        } else if let Some(takes) = builtins::arity(&name) {
            if given == takes {
                builtins.insert(name);
            } else {
                errors.push(RegoError::Arguments { file, line, name, takes });
            }
        } else if OF_REGORUS.contains(&name.as_str()) {
            builtins.insert(name);
        } else if let Some((_, advice)) = LACKING.iter().find(|(lacking, _)| *lacking == name) {
            errors.push(RegoError::Builtin { file, line, name, advice });
        } else {
            errors.push(RegoError::Undefined { file, line, name });
        }
    }

    /// Whether the policies define the function that `name` is here.
    fn is_defined(&self, name: &str) -> bool {
        let (first, rest) = name.split_once('.').map_or((name, ""), |(first, rest)| (first, rest));
        let imported = self.imports.iter().find(|import| import.name == first);
        let imported = imported.map(|import| match (joined(&import.target), rest) {
            (target, "") => target,
            (target, rest) => format!("{target}.{rest}"),
        });
        let is_rule = |path: &str| self.rules.contains(path);
        is_rule(name)
            || is_rule(&format!("{}.{name}", self.package))
            || imported.is_some_and(|path| is_rule(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_that_is_said_to_be_there_is_there() {
        let mut missing = Vec::new();
        for name in OF_REGORUS {
            let text = format!("package p\nimport rego.v1\nx if {{ {name}(1) }}");
            let mut engine = regorus::Engine::new();
            engine.add_policy("p.rego".to_owned(), text).unwrap();
            let policy = engine.compile_with_entrypoint(&"data.p.x".into()).unwrap();
            let compiled = regorus::languages::rego::compiler::Compiler::compile_from_policy(
                &policy,
                &["data.p.x"],
            );
            // The interpreter alone has it.
            if compiled.is_err() && name != "walk" {
                missing.push(name);
            }
            assert!(builtins::arity(name).is_none(), "{name}");
            assert!(LACKING.iter().all(|(lacking, _)| *lacking != name), "{name}");
        }
        assert!(missing.is_empty(), "{missing:?}");
        for (name, _) in LACKING {
            assert!(builtins::arity(name).is_none(), "{name}");
        }
    }
}

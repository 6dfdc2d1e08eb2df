//! Regorus' syntax trees, which it gives as JSON.
//!
//! An expression is an object with its kind as the one name in it. What is read here is the kinds that
//! make a path: a name, and what is taken out of it by a dot or in brackets.

use serde_json::Value as Json;

/// `import data.a.b as c`.
pub(super) struct Import {
    /// `c`, or without `as` the last name of the target.
    pub(super) name: String,
    /// `data.a.b`.
    pub(super) target: Vec<String>,
}

/// The imports of a module; `None` for one of a form that is not understood.
pub(super) fn imports(module: &Json) -> impl Iterator<Item = Option<Import>> {
    let imports = module.pointer("/ast/imports").and_then(Json::as_array);
    let source = module.pointer("/source/contents").and_then(Json::as_str).unwrap_or_default();
    imports.into_iter().flatten().map(|import| {
        let target: Vec<_> = names(import.get("refr")?)?.into_iter().map(str::to_owned).collect();
        let name = match import.get("as") {
            Some(span) => {
                let at = |name| usize::try_from(span.get(name)?.as_u64()?).ok();
                source.get(at("start")?..at("end")?)?
            }
            None => target.last()?,
        };
        let name = name.to_owned();
        Some(Import { name, target })
    })
}

/// The path that an expression is, as regorus writes paths.
pub(super) fn path(expression: &Json) -> Option<String> {
    names(expression).map(|names| joined(&names))
}

/// The names in the path that an expression is; `None` if it is none, or not all of it is written down.
fn names(expression: &Json) -> Option<Vec<&str>> {
    if let Some(name) = expression.pointer("/Var/value").and_then(Json::as_str) {
        return Some(vec![name]);
    }
    let (refr, name) = taken(expression)?;
    let mut names = names(refr)?;
    names.push(name);
    Some(names)
}

/// `refr` and `name` of `refr.name` or `refr["name"]`.
pub(super) fn taken(expression: &Json) -> Option<(&Json, &str)> {
    if let Some(dotted) = expression.get("RefDot") {
        let name = dotted.get("field")?.as_array()?.last()?.as_str()?;
        return Some((dotted.get("refr")?, name));
    }
    let bracketed = expression.get("RefBrack")?;
    let name = bracketed.pointer("/index/String/value").and_then(Json::as_str)?;
    Some((bracketed.get("refr")?, name))
}

/// Names as a path: `data.a["not a name"]`.
pub(super) fn joined(names: &[impl AsRef<str>]) -> String {
    let mut names = names.iter().map(AsRef::as_ref);
    let first = names.next().unwrap_or_default().to_owned();
    names.fold(first, |path, name| path + &part(name))
}

/// One part of a path: `.name`, or `["not a name"]`.
pub(super) fn part(name: &str) -> String {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if is_name { format!(".{name}") } else { format!("[{}]", Json::from(name)) }
}

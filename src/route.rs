//! The route table: which asset and action a request is about.
//!
//! Routes are tried in order and the first match wins. A route either names a target or is a
//! bypass; a request that no route matches has no target, which is a denial. A scope without routes
//! asks about the path itself: asset type `Path`, its canonical path, the method in lower case.

mod table;

use self::table::Table;
use crate::path::{Allowances, BadPath, CanonicalPath, decoded};

/// What is asked for: an action on an asset.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Target {
    /// The asset's type, a Cedar entity type.
    pub asset_type: String,
    /// The asset's id within its type.
    pub asset_id: String,
    /// What is to be done to it.
    pub action: String,
}

/// What the table says of one request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Resolved {
    /// Forwarded without authentication, decision or token.
    Bypass,
    /// To be decided on.
    Target(Target),
    /// In no route: a denial.
    Unknown,
}

/// The compiled table of one scope.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
    table: Table,
}

impl Routes {
    /// The table with these routes, in order.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut table = Table::default();
        for (number, route) in routes.iter().enumerate() {
            table.insert(number, &route.pattern);
        }
        Self { routes, table }
    }

    /// The first route's word on a request; without any route, the path itself is the asset.
    pub fn resolve(&self, method: &str, path: &CanonicalPath) -> Resolved {
        if self.is_empty() {
            return Resolved::Target(Target {
                asset_type: "Path".to_owned(),
                asset_id: path.as_str().to_owned(),
                action: method.to_ascii_lowercase(),
            });
        }
        let route = self.matching(method, path).and_then(|number| self.routes.get(number));
        route.and_then(|route| route.resolve(path)).unwrap_or(Resolved::Unknown)
    }

    /// The number of the route that decides, from 0.
    pub fn matching(&self, method: &str, path: &CanonicalPath) -> Option<usize> {
        let segments: Vec<&str> = path.segments().collect();
        let fits =
            |number: usize| self.routes.get(number).is_some_and(|route| route.admits(method));
        self.table.first(&segments, &fits)
    }

    /// Whether there is none, so that every path is its own asset.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The asset types and actions that the routes name, for listing entitlements.
    pub fn named_targets(&self) -> impl Iterator<Item = (&str, &str)> {
        self.routes.iter().filter_map(|route| match &route.to {
            Destination::Bypass => None,
            Destination::Target { asset_type, action, .. } => {
                Some((asset_type.as_str(), action.as_str()))
            }
        })
    }
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Empty: any method.
    methods: Vec<String>,
    pattern: Pattern,
    to: Destination,
}

#[derive(Clone, Debug)]
enum Destination {
    Bypass,
    Target { asset_type: String, asset_id: IdTemplate, action: String },
}

impl Route {
    /// A route whose requests are forwarded undecided.
    pub fn bypass(methods: Vec<String>, pattern: Pattern) -> Self {
        Self { methods, pattern, to: Destination::Bypass }
    }

    /// A route whose requests ask for `action` on the asset; `asset_id` may hold the pattern's
    /// variables in braces.
    pub fn target(
        methods: Vec<String>,
        pattern: Pattern,
        asset_type: String,
        asset_id: &str,
        action: String,
    ) -> Result<Self, RouteError> {
        let asset_id = IdTemplate::parse(asset_id, &pattern)?;
        Ok(Self { methods, pattern, to: Destination::Target { asset_type, asset_id, action } })
    }

    fn admits(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|allowed| allowed == method)
    }

    fn resolve(&self, path: &CanonicalPath) -> Option<Resolved> {
        let values = self.pattern.captures(path)?;
        Some(match &self.to {
            Destination::Bypass => Resolved::Bypass,
            Destination::Target { asset_type, asset_id, action } => Resolved::Target(Target {
                asset_type: asset_type.clone(),
                asset_id: asset_id.render(&values),
                action: action.clone(),
            }),
        })
    }
}

/// A path pattern: literal segments, `{x}` for one segment, `{x*}` at the end for one or more.
#[derive(Clone, Debug)]
pub struct Pattern {
    segments: Vec<Segment>,
    variables: Vec<String>,
}

#[derive(Clone, Debug)]
enum Segment {
    /// In canonical form.
    Literal(String),
    One,
    Rest,
}

impl Pattern {
    /// Reads `text`; its literal segments are brought into the form that paths will have.
    pub fn parse(text: &str, allow: Allowances) -> Result<Self, RouteError> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(RouteError::NotAbsolute(text.to_owned()));
        };
        let mut pattern = Self { segments: Vec::new(), variables: Vec::new() };
        for part in rest.split('/') {
            match pattern.segments.last() {
                Some(Segment::Rest) => return Err(RouteError::RestNotLast(text.to_owned())),
                Some(Segment::Literal(literal)) if literal.is_empty() && !allow.double_slash => {
                    let source = BadPath::DoubleSlash;
                    return Err(RouteError::Unreachable { text: text.to_owned(), source });
                }
                _ => {}
            }
            let segment = match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(variable) => pattern.variable(variable, text)?,
                None if part.contains(['{', '}']) => {
                    return Err(RouteError::PartialVariable(text.to_owned()));
                }
                None => Segment::Literal(canonical_literal(part, text, allow)?),
            };
            pattern.segments.push(segment);
        }
        Ok(pattern)
    }

    fn variable(&mut self, variable: &str, text: &str) -> Result<Segment, RouteError> {
        let (name, segment) = match variable.strip_suffix('*') {
            Some(name) => (name, Segment::Rest),
            None => (variable, Segment::One),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(RouteError::VariableName(text.to_owned()));
        }
        if self.variables.iter().any(|known| known == name) {
            return Err(RouteError::RepeatedVariable(name.to_owned(), text.to_owned()));
        }
        self.variables.push(name.to_owned());
        Ok(segment)
    }

    /// The decoded values of the variables, in order, if `path` matches.
    fn captures(&self, path: &CanonicalPath) -> Option<Vec<String>> {
        let mut values = Vec::with_capacity(self.variables.len());
        let mut parts = path.segments();
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(literal) if literal == part => {}
                Segment::Literal(_) => return None,
                Segment::One => values.push(non_empty(part)?),
                Segment::Rest => {
                    let mut value = non_empty(part)?;
                    for part in parts.by_ref() {
                        value.push('/');
                        value.push_str(&non_empty(part)?);
                    }
                    values.push(value);
                }
            }
        }
        parts.next().is_none().then_some(values)
    }
}

/// An asset id with the variables of its route's pattern filled in.
#[derive(Clone, Debug)]
struct IdTemplate(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    /// Index into the pattern's variables.
    Variable(usize),
}

impl IdTemplate {
    fn parse(text: &str, pattern: &Pattern) -> Result<Self, RouteError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err(RouteError::UnclosedVariable(text.to_owned()));
            };
            let Some(index) = pattern.variables.iter().position(|known| known == name) else {
                return Err(RouteError::UnknownVariable {
                    name: name.to_owned(),
                    known: pattern.variables.join("`, `"),
                });
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            pieces.push(Piece::Variable(index));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        if pieces.is_empty() {
            return Err(RouteError::EmptyId);
        }
        Ok(Self(pieces))
    }

    fn render(&self, values: &[String]) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Variable(index) => values.get(*index).map_or("", String::as_str),
            })
            .collect()
    }
}

/// Why a route can't be compiled.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The pattern's first character is not a slash.
    #[error("the path `{0}` does not begin with `/`: write it as `/{0}`")]
    NotAbsolute(String),
    /// A literal segment that no canonical path can hold.
    #[error("the path `{text}` can never match: {source}")]
    Unreachable {
        /// The pattern.
        text: String,
        /// Why paths like it are refused.
        source: BadPath,
    },
    /// `{x*}` before the end.
    #[error("`{0}` has segments after its `{{…*}}`: a variable with `*` must be the last segment")]
    RestNotLast(String),
    /// Text and a variable in one segment.
    #[error("`{0}` mixes text and a variable in one segment: a variable is a whole segment")]
    PartialVariable(String),
    /// An empty or odd variable name.
    #[error("`{0}` has a variable whose name is not made of letters, digits and `_`")]
    VariableName(String),
    /// One name twice.
    #[error("the variable `{0}` stands twice in `{1}`: give each its own name")]
    RepeatedVariable(String, String),
    /// `{` without `}`.
    #[error("`{0}` has a `{{` without its `}}`")]
    UnclosedVariable(String),
    /// The asset id uses a variable that the path lacks.
    #[error("the asset id uses `{name}`, which is no variable of the path; it has `{known}`")]
    UnknownVariable {
        /// The name used.
        name: String,
        /// The names the path has.
        known: String,
    },
    /// The asset id is empty.
    #[error("the asset id is empty: write a text or a variable of the path in braces")]
    EmptyId,
}

fn canonical_literal(part: &str, text: &str, allow: Allowances) -> Result<String, RouteError> {
    let unreachable = |source| RouteError::Unreachable { text: text.to_owned(), source };
    let path = CanonicalPath::parse(&format!("/{part}"), allow).map_err(unreachable)?;
    Ok(path.segments().next().unwrap_or_default().to_owned())
}

fn non_empty(segment: &str) -> Option<String> {
    (!segment.is_empty()).then(|| decoded(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text, Allowances::default()).unwrap()
    }

    fn path(raw: &str) -> CanonicalPath {
        let allow = Allowances { double_slash: true, encoded_slash: true, ..Default::default() };
        CanonicalPath::parse(raw, allow).unwrap()
    }

    fn target(asset_type: &str, asset_id: &str, action: &str) -> Resolved {
        Resolved::Target(Target {
            asset_type: asset_type.to_owned(),
            asset_id: asset_id.to_owned(),
            action: action.to_owned(),
        })
    }

    fn route(methods: &[&str], text: &str, id: &str) -> Route {
        let methods = methods.iter().map(|&method| method.to_owned()).collect();
        Route::target(methods, pattern(text), "Account".into(), id, "read".into()).unwrap()
    }

    #[test]
    fn no_match_is_unknown() {
        let routes = Routes::new(vec![route(&["GET"], "/accounts/{a}", "{a}")]);
        for (method, raw) in [
            ("POST", "/accounts/1"),
            ("get", "/accounts/1"),
            ("GET", "/accounts"),
            ("GET", "/accounts/"),
            ("GET", "/accounts/1/"),
            ("GET", "/accounts/1/2"),
            ("GET", "/Accounts/1"),
            ("GET", "//accounts/1"),
            ("GET", "/"),
        ] {
            assert_eq!(routes.resolve(method, &path(raw)), Resolved::Unknown, "{method} {raw}");
        }
        assert_eq!(routes.resolve("GET", &path("/accounts/1")), target("Account", "1", "read"));
    }

    #[test]
    fn the_first_match_wins() {
        let routes = Routes::new(vec![
            route(&[], "/accounts/self", "me"),
            Route::bypass(vec!["GET".into()], pattern("/accounts/{x}")),
            route(&[], "/accounts/{x}", "{x}"),
        ]);
        assert_eq!(routes.resolve("GET", &path("/accounts/self")), target("Account", "me", "read"));
        assert_eq!(routes.resolve("GET", &path("/accounts/7")), Resolved::Bypass);
        assert_eq!(routes.resolve("PUT", &path("/accounts/7")), target("Account", "7", "read"));
    }

    #[test]
    fn variables_yield_decoded_segments() {
        let routes = Routes::new(vec![route(&[], "/a/{x}/b/{y*}", "{y}#{x}")]);
        assert_eq!(
            routes.resolve("GET", &path("/a/1%3A2/b/c/d%20e")),
            target("Account", "c/d e#1:2", "read")
        );
        assert_eq!(routes.resolve("GET", &path("/a/1/b")), Resolved::Unknown);
        assert_eq!(routes.resolve("GET", &path("/a/1/b/c/")), Resolved::Unknown);
        assert_eq!(routes.resolve("GET", &path("/a//b/c")), Resolved::Unknown);
    }

    #[test]
    fn literals_are_compared_in_canonical_form() {
        let routes = Routes::new(vec![route(&[], "/%61/b%3ac", "x")]);
        assert_eq!(routes.resolve("GET", &path("/a/b%3Ac")), target("Account", "x", "read"));
        let root = Routes::new(vec![route(&[], "/", "root")]);
        assert_eq!(root.resolve("GET", &path("/")), target("Account", "root", "read"));
        assert_eq!(root.resolve("GET", &path("/x")), Resolved::Unknown);
    }

    #[test]
    fn without_routes_the_path_is_the_asset() {
        let resolved = Routes::default().resolve("DELETE", &path("/a/b"));
        assert_eq!(resolved, target("Path", "/a/b", "delete"));
    }

    #[test]
    fn bad_patterns_say_what_to_do() {
        let error = |text| Pattern::parse(text, Allowances::default()).unwrap_err().to_string();
        assert!(error("accounts").contains("`/accounts`"));
        assert!(error("/{x*}/b").contains("must be the last"));
        assert!(error("/v{x}").contains("whole segment"));
        assert!(error("/{}").contains("letters"));
        assert!(error("/{a-b}").contains("letters"));
        assert!(Pattern::parse("/{a_B9}", Allowances::default()).is_ok());
        assert!(error("/{x}/{x}").contains("twice"));
        assert!(error("/a;b").contains("can never match"));
        assert!(error("/a//b").contains("can never match"));
        let error = |id| {
            let route = Route::target(vec![], pattern("/{x}"), "A".into(), id, "r".into());
            route.unwrap_err().to_string()
        };
        assert!(error("{y}").contains("`x`"));
        assert!(error("{x").contains('}'));
        assert!(error("").contains("empty"));
    }

    proptest::proptest! {
        /// The first route that matches by itself.
        #[test]
        fn the_table_finds_what_a_scan_finds(
            patterns in proptest::collection::vec("(/(a|b|\\{\\}|)){1,4}(/\\{\\*\\})?", 0..12),
            methods in proptest::collection::vec(0..3_usize, 12),
            paths in proptest::collection::vec("(/(a|b|c|)){1,5}", 1..8),
        ) {
            let allow = Allowances { double_slash: true, ..Default::default() };
            let allowed: [&[&str]; 3] = [&[], &["GET"], &["PUT", "POST"]];
            let named = |text: &str| {
                let mut count = 0;
                text.split('/').map(|part| {
                    count += 1;
                    part.replace("{}", &format!("{{v{count}}}")).replace("{*}", &format!("{{v{count}*}}"))
                }).collect::<Vec<_>>().join("/")
            };
            let routes: Vec<Route> = patterns.iter().zip(methods).map(|(text, which)| {
                let methods = allowed[which].iter().map(|&method| method.to_owned()).collect();
                Route::bypass(methods, Pattern::parse(&named(text), allow).unwrap())
            }).collect();
            let table = Routes::new(routes.clone());
            for raw in paths {
                let path = path(&raw);
                for method in ["GET", "POST", "DELETE"] {
                    let scan = routes
                        .iter()
                        .position(|route| route.admits(method) && route.pattern.captures(&path).is_some());
                    proptest::prop_assert_eq!(table.matching(method, &path), scan, "{} {}", method, raw);
                }
            }
        }
    }
}

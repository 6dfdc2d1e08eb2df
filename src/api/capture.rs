//! `GET /capture` on the admin listener: the next checks as Envoy sends them, one line of JSON each,
//! without what could be used again. There only when the process was started with `--capture`.
//!
//! `count` (1 to 1000, default 1) checks are shown, or as many as come within `seconds` (1 to 300,
//! default 30).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use http::{StatusCode, header};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::envoy::capture::Tap;
use crate::scope::Scopes;

#[derive(Clone, Debug)]
struct Captures {
    tap: Option<Tap>,
    scopes: Arc<ArcSwap<Scopes>>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    count: u16,
    seconds: u16,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { count: 1, seconds: 30 }
    }
}

/// The route; without a `tap` it says how to get one.
pub fn router(tap: Option<Tap>, scopes: Arc<ArcSwap<Scopes>>) -> Router {
    Router::new().route("/capture", get(capture)).with_state(Captures { tap, scopes })
}

async fn capture(State(captures): State<Captures>, Query(wanted): Query<Wanted>) -> Response {
    let Some(tap) = captures.tap else {
        let how = "nothing is captured: start with `placet serve --capture`\n";
        return (StatusCode::NOT_FOUND, how).into_response();
    };
    if !(1..=1000).contains(&wanted.count) || !(1..=300).contains(&wanted.seconds) {
        let how = "`count` is 1 to 1000, `seconds` 1 to 300\n";
        return (StatusCode::BAD_REQUEST, how).into_response();
    }
    let Some(reading) = tap.read() else {
        return (StatusCode::TOO_MANY_REQUESTS, "too many read already\n").into_response();
    };
    let end = Instant::now() + Duration::from_secs(wanted.seconds.into());
    let lines = stream::unfold((reading, wanted.count), move |(mut reading, left)| {
        let scopes = Arc::clone(&captures.scopes);
        async move {
            let left = left.checked_sub(1)?;
            let line = timeout_at(end, reading.next(|| scopes.load_full())).await.ok()??;
            Some((Ok::<_, std::convert::Infallible>(line + "\n"), (reading, left)))
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

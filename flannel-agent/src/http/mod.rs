//! Health, readiness, metrics and the status page over HTTP, on the port that `-healthz-port` gives.
//!
//! `/healthz` and `/readyz` answer as flannel's do, byte for byte in their first line.

mod health;

use std::{future::Future, io, net::SocketAddr};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{any, get},
};
use tokio::net::TcpListener;

use crate::{admin::Context, metrics, state::NodeState};

pub use health::faults;

/// The status page: one file, nothing outside it.
const PAGE: &str = include_str!("page.html");

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be had.
    #[error("cannot listen on {address} for health and metrics: {source}; choose another -healthz-ip or -healthz-port")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The listener broke.
    #[error("serving health and metrics on {address}: {source}")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Takes the port, so that a mistake in it is known before anything else is done.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

/// Serves `listener` until `shutdown` ends.
pub async fn serve_on(
    listener: TcpListener,
    context: Context,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    axum::serve(listener, routes(context))
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(|source| Error::Serve { address, source })
}

/// [`listen`] and [`serve_on`] in one.
pub async fn serve(
    address: SocketAddr,
    context: Context,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    serve_on(listen(address).await?, context, shutdown).await
}

fn routes(context: Context) -> Router {
    Router::new()
        .route("/healthz", any(healthz))
        .route("/readyz", any(readyz))
        .route("/livez", any(livez))
        .route("/metrics", get(scrape))
        .route("/", get(page))
        .route("/status.json", get(picture))
        .with_state(context)
}

async fn healthz() -> &'static str {
    "flanneld is running"
}

async fn readyz(State(context): State<Context>) -> (StatusCode, String) {
    health::ready(&context.node())
}

async fn livez(State(context): State<Context>) -> (StatusCode, String) {
    health::live(&context.node(), crate::events::now())
}

async fn page() -> Html<&'static str> {
    Html(PAGE)
}

/// Content type of the OpenMetrics text that [`metrics::render`] writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn scrape(State(context): State<Context>) -> Response {
    match tokio::task::spawn_blocking(move || metrics::render(&context)).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("collecting metrics broke off: {error}\n")).into_response()
        }
    }
}

/// What the status page draws.
#[derive(serde::Serialize)]
struct Picture {
    node: NodeState,
    now: u64,
    peers: Vec<crate::admin::PeerRow>,
    counts: Vec<crate::traffic::Count>,
}

async fn picture(State(context): State<Context>) -> Response {
    let read = move || {
        let peers = context.peer_rows()?;
        let counts = context.traffic.get().map_or(Ok(vec![]), |traffic| traffic.counts())?;
        Ok::<_, String>(Picture { node: NodeState::clone(&context.node()), now: crate::events::now(), peers, counts })
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(picture)) => Json(picture).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

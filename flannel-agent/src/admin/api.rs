//! The admin socket's paths. Version 1: fields may be added, never changed or taken away.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, put},
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Context, OpsError};
use crate::traffic::FlowFilter;

/// An answer that is not the one asked for, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    /// What is wrong, and what to do.
    pub error: String,
}

/// The paths of the socket.
pub(super) fn routes(context: Context) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/counts", get(counts))
        .route("/v1/flows", get(flows))
        .route("/v1/flow-count", get(flow_count))
        .route("/v1/events", get(events))
        .route("/v1/leases", get(leases))
        .route("/v1/leases/{address}/{length}", delete(release))
        .route("/v1/leases/{address}/{length}/reservation", put(reserve))
        .route("/v1/config", get(config).put(set_config))
        .fallback(unknown)
        .with_state(context)
}

async fn unknown(uri: axum::http::Uri) -> Response {
    fault(
        StatusCode::NOT_FOUND,
        format!("{} is no path of this flanneld; its flannelctl may be newer than it", uri.path()),
    )
}

fn fault(code: StatusCode, error: String) -> Response {
    (code, Json(Fault { error })).into_response()
}

/// Answers with what `read` returns, off the agent's thread: reading maps blocks.
async fn blocking<T: Serialize + Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => fault(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, format!("reading the fast path broke off: {error}")),
    }
}

async fn status(State(context): State<Context>) -> Response {
    Json(context.node().as_ref()).into_response()
}

async fn peers(State(context): State<Context>) -> Response {
    blocking(move || context.peer_rows()).await
}

async fn counts(State(context): State<Context>) -> Response {
    blocking(move || context.traffic.get().map_or(Ok(vec![]), |traffic| traffic.counts())).await
}

async fn flows(State(context): State<Context>, Query(filter): Query<FlowFilter>) -> Response {
    blocking(move || context.traffic.get().map_or(Ok(vec![]), |traffic| traffic.flows(filter))).await
}

async fn flow_count(State(context): State<Context>) -> Response {
    blocking(move || context.traffic.get().map(|traffic| traffic.flow_count()).transpose()).await
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn events(State(context): State<Context>, Query(Since { since }): Query<Since>) -> Response {
    Json(context.events.since(since)).into_response()
}

/// Turns an operation's outcome into an answer.
fn answer<T: Serialize>(outcome: Result<T, OpsError>) -> Response {
    match outcome {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let code = match error {
                OpsError::NotFound(_) => StatusCode::NOT_FOUND,
                OpsError::Refused(_) => StatusCode::CONFLICT,
                OpsError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            fault(code, error.to_string())
        }
    }
}

/// The store, or what to answer without one.
fn store(context: &Context) -> Result<std::sync::Arc<dyn super::StoreOps>, OpsError> {
    context.store.get().ok_or_else(|| {
        let why = context.node().store.error.clone().unwrap_or_else(|| "no answer yet".to_owned());
        OpsError::Unavailable(format!("flanneld has no connection to the store: {why}"))
    })
}

fn subnet(address: &str, length: &str) -> Result<Ipv4Net, OpsError> {
    let text = format!("{address}/{length}");
    text.parse().map_err(|_bad| OpsError::NotFound(format!("{text:?} is not an IPv4 subnet like 172.16.5.0/24")))
}

async fn leases(State(context): State<Context>) -> Response {
    match store(&context) {
        Ok(store) => answer(store.leases().await),
        Err(error) => answer::<()>(Err(error)),
    }
}

#[derive(Deserialize)]
struct For {
    host: Option<std::net::Ipv4Addr>,
}

async fn reserve(
    State(context): State<Context>,
    Path((address, length)): Path<(String, String)>,
    Query(For { host }): Query<For>,
) -> Response {
    match subnet(&address, &length).and_then(|net| Ok((net, store(&context)?))) {
        Ok((net, store)) => answer(store.reserve(net, host).await),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn release(State(context): State<Context>, Path((address, length)): Path<(String, String)>) -> Response {
    match subnet(&address, &length).and_then(|net| Ok((net, store(&context)?))) {
        Ok((net, store)) => answer(store.release(net).await),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn config(State(context): State<Context>) -> Response {
    match store(&context) {
        Ok(store) => answer(store.config().await),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn set_config(State(context): State<Context>, text: String) -> Response {
    match store(&context) {
        Ok(store) => answer(store.set_config(text).await),
        Err(error) => answer::<()>(Err(error)),
    }
}

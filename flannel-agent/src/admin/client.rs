//! Asks the admin socket: one request a connection.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};

use super::api::Fault;

/// How long an answer may take; operations on a store that fails over take a few seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no flanneld answers on {path} ({cause}); is it running? its path is flanneld's -admin-socket")]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
    /// Not root.
    #[error("{0} is for root alone; run this as root (sudo)")]
    Forbidden(PathBuf),
    /// The exchange broke off.
    #[error("flanneld on {path} broke off: {text}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        text: String,
    },
    /// flanneld says no.
    #[error("{text}")]
    Refused {
        /// HTTP status.
        code: StatusCode,
        /// What flanneld says.
        text: String,
    },
}

/// A way to ask one flanneld.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Will ask the flanneld that listens on `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for `target` (a path with its query) and reads the JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Error> {
        self.ask(Method::GET, target, String::new()).await
    }

    /// Sends a request and reads the JSON answer.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, target: &str, body: String) -> Result<T, Error> {
        let (code, bytes) = timeout(PATIENCE, self.exchange(method, target, body))
            .await
            .unwrap_or_else(|_| Err(self.broken(format!("no answer within {} s", PATIENCE.as_secs()))))?;
        if !code.is_success() {
            let text = serde_json::from_slice::<Fault>(&bytes)
                .map_or_else(|_| format!("{code}: {}", String::from_utf8_lossy(&bytes)), |fault| fault.error);
            return Err(Error::Refused { code, text });
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| self.broken(format!("its answer is not the expected JSON: {error}")))
    }

    async fn exchange(&self, method: Method, target: &str, body: String) -> Result<(StatusCode, Bytes), Error> {
        let stream = UnixStream::connect(&self.path).await.map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => Error::Forbidden(self.path.clone()),
            _ => Error::Absent { path: self.path.clone(), cause },
        })?;
        let broken = |error: hyper::Error| self.broken(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "flanneld")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(format!("{target:?} is not a path: {error}")))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let code = answer.status();
            Ok((code, answer.into_body().collect().await?.to_bytes()))
        };
        tokio::select! {
            answer = exchange => answer.map_err(broken),
            Err(error) = connection => Err(broken(error)),
        }
    }

    fn broken(&self, text: String) -> Error {
        Error::Broken { path: self.path.clone(), text }
    }
}

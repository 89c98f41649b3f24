//! The socket file: made for root alone, taken over from a dead agent, never from a living one.

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::{Context, api};

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent listens there.
    #[error(
        "admin socket {0} belongs to a flanneld that is running; give this one a path of its own with -admin-socket"
    )]
    Owned(PathBuf),
    /// Something stands in the way.
    #[error("admin socket {0} is a file that is not a socket; move it away or choose another path with -admin-socket")]
    NotSocket(PathBuf),
    /// The file system refused.
    #[error("admin socket {path}: cannot {action}: {source}")]
    File {
        /// The socket, or its folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A bound admin socket; its file goes when this is dropped, if it is still ours.
#[derive(Debug)]
pub struct Listener {
    socket: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of our file: another agent may have replaced it since.
    file: (u64, u64),
}

/// Makes the socket at `path`, and its folder if need be.
pub async fn listen(path: &Path) -> Result<Listener, Error> {
    let failed = |action| move |source| Error::File { path: path.to_owned(), action, source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed("make its folder"))?;
    }
    clear_stale(path).await?;
    // Bound under a name that nobody asks, closed to others, then renamed: there is no moment at which others may connect.
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&draft) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed("remove its draft")(source)),
        _ => {}
    }
    let socket = UnixListener::bind(&draft).map_err(failed("bind it"))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(failed("close it to others"))?;
    let made = fs::metadata(&draft).map_err(failed("read its inode"))?;
    fs::rename(&draft, path).map_err(failed("rename it into place"))?;
    Ok(Listener { socket: Some(socket), path: path.to_owned(), file: (made.dev(), made.ino()) })
}

/// Makes way for a new socket: a socket that nobody answers on is a dead agent's, and will be replaced.
async fn clear_stale(path: &Path) -> Result<(), Error> {
    let failed = |action| move |source| Error::File { path: path.to_owned(), action, source };
    match fs::symlink_metadata(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("look at it")(source)),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(Error::Owned(path.to_owned())),
        Err(source) if source.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(failed("tell whether anybody listens on it")(source)),
    }
}

impl Listener {
    /// Serves requests until `shutdown` ends.
    pub async fn serve(
        mut self,
        context: Context,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let Some(socket) = self.socket.take() else { return Ok(()) };
        axum::serve(socket, api::routes(context)).with_graceful_shutdown(shutdown).await.map_err(|source| Error::File {
            path: self.path.clone(),
            action: "serve it",
            source,
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "admin socket file stays behind");
        }
    }
}

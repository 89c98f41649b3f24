//! A TCP proxy that can fall silent: connections stay open and nothing gets through, as behind a firewall that forgot them.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything gets through.
    Pass,
    /// Nothing does.
    Silent,
    /// Connections are closed, and new ones too.
    Cut,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    pub(crate) async fn start(upstream_url: &str) -> Self {
        let upstream: SocketAddr = upstream_url.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let modes = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(upstream).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, modes.subscribe()));
                tokio::spawn(carry(from_server, to_client, modes.subscribe()));
            }
        });
        Self { url, mode }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let now = *mode.borrow_and_update();
        let changed = match now {
            Mode::Cut => return,
            Mode::Silent => mode.changed().await,
            Mode::Pass => tokio::select! {
                changed = mode.changed() => changed,
                read = from.read(&mut buffer) => match read {
                    Ok(1..) if to.write_all(&buffer[..read.unwrap_or(0)]).await.is_ok() => Ok(()),
                    _ => return,
                },
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

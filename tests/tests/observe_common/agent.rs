//! An agent that exists only in memory, but answers on a real socket.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use flannel_agent::{
    admin::{self, Context},
    state::NodeState,
};
use flannel_tests::{flanneld::binary, netns::Netns, scratch::Scratch};
use tokio::sync::{oneshot, watch};

use super::{context, memory};

/// An agent in memory that serves a socket until it is dropped.
pub struct Agent {
    pub socket: PathBuf,
    pub context: Context,
    pub state: watch::Sender<Arc<NodeState>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: Scratch,
}

impl Agent {
    pub fn start(node: NodeState) -> Self {
        let dir = Scratch::new("admin").unwrap();
        let socket = dir.join("run/flanneld.sock");
        let (state, context) = context(node);
        context.traffic.set(Arc::new(memory()));
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (path, served) = (socket.clone(), context.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = admin::listen(&path).await.unwrap();
                ready.send(()).unwrap();
                listener.serve(served, async { stopped.await.unwrap_or_default() }).await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self { socket, context, state, stop: Some(stop), thread: Some(thread), _dir: dir }
    }

    pub fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.socket, args)
    }

    /// Runs flannelctl, which must end with `code`; gives what it printed.
    pub fn says(&self, code: i32, args: &[&str]) -> String {
        let output = self.ctl(args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(code), "flannelctl {args:?} said:\n{said}");
        said
    }

    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn ctl(socket: &Path, args: &[&str]) -> Output {
    Command::new(binary("flannelctl").unwrap()).arg("--socket").arg(socket).args(args).output().unwrap()
}

pub fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// Runs flannelctl inside a network namespace; gives its exit code and everything it printed.
pub fn ctl_in(ns: &Netns, socket: &Path, args: &[&str]) -> (i32, String) {
    let mut command = ns.command(binary("flannelctl").unwrap());
    let output = command.arg("--socket").arg(socket).args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

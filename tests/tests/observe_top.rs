//! `flannelctl top` in a real terminal, narrow and wide. What it showed is kept under `target/observe/`.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use flannel_agent::traffic::{Count, FlowFilter, FlowRow, Traffic};
use flannel_common::abi::PeerTally;
use flannel_tests::{flanneld::binary, require, scratch::unique_name, skip::Feature, wait::wait_for};
use observe_common::{
    Memory,
    agent::{Agent, assert_has, ctl},
    memory, node,
};

/// Counters that grow with every look, so that there is something to see.
#[derive(Default)]
struct Growing {
    looks: AtomicU32,
    base: Memory,
}

impl Traffic for Growing {
    fn counts(&self) -> Result<Vec<Count>, String> {
        let look = u64::from(self.looks.load(Ordering::Relaxed));
        let grow = |mut count: Count| {
            count.packets += look * 5000;
            count.bytes += look * 5_000_000;
            count
        };
        Ok(self.base.counts()?.into_iter().map(grow).collect())
    }

    fn peers(&self, slots: &[u32]) -> Result<Vec<PeerTally>, String> {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let slots: Vec<u32> = slots.iter().map(|slot| slot * 100_000 * (look + 1)).collect();
        self.base.peers(&slots)
    }

    fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowRow>, String> {
        let look = u64::from(self.looks.load(Ordering::Relaxed));
        let grow = |mut flow: FlowRow| {
            flow.bytes += look * 125_000_000 / u64::from(flow.sport - 40_001);
            flow
        };
        Ok(self.base.flows(filter)?.into_iter().map(grow).collect())
    }

    fn flow_count(&self) -> Result<u64, String> {
        self.base.flow_count()
    }
}

/// A tmux server of our own, which ends with the test.
struct Tmux(String);

impl Tmux {
    fn start(columns: u16, rows: u16, command: &str) -> Self {
        let tmux = Self(unique_name("tmux"));
        tmux.run(&["new-session", "-d", "-x", &columns.to_string(), "-y", &rows.to_string(), command]);
        tmux
    }

    fn run(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("tmux").args(["-L", &self.0, "-f", "/dev/null"]).args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"]).unwrap_or_default()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/observe");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn seen_at(columns: u16, rows: u16) -> String {
    let agent = Agent::start(node(30));
    agent.context.traffic.set(Arc::new(Growing { base: memory(), ..Growing::default() }));
    let command = format!("{} --socket {} top", binary("flannelctl").unwrap().display(), agent.socket.display());
    let tmux = Tmux::start(columns, rows, &command);
    // The first second has no rates yet.
    let screen = wait_for("rates on the screen", Duration::from_mins(1), || {
        let screen = tmux.screen();
        ["% fast", "Gb/s", "fast_out"].iter().all(|part| screen.contains(part)).then_some(screen)
    });
    let screen = screen.unwrap_or_else(|error| panic!("{error:#}; the screen is\n{}", tmux.screen()));
    fs::write(kept(&format!("top-{columns}.txt")), &screen).unwrap();
    tmux.run(&["send-keys", "q"]);
    wait_for("the end of top", Duration::from_secs(30), || tmux.run(&["has-session"]).is_none().then_some(())).unwrap();
    screen
}

#[test]
fn eighty_columns() {
    require!(Feature::Tool("tmux"));
    let screen = seen_at(80, 40);
    assert_has(
        &screen,
        &[
            "flannel 10.0.0.0/24 22 h",
            "30 peers, etcd connected",
            " peers ",
            " flows ",
            " what hooks decided ",
            "10.0.30.0/24",
            "70 %",
        ],
    );
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert_has(&screen, &["10.0.0.2:40002", "fast_out", "q quits"]);
}

#[test]
fn two_hundred_columns() {
    require!(Feature::Tool("tmux"));
    let screen = seen_at(200, 50);
    // Side by side: one line has both heads.
    assert!(screen.lines().any(|line| line.contains(" peers ") && line.contains(" flows ")), "{screen}");
    assert_has(&screen, &["10.0.30.0/24", "10.0.0.2:40002", "10.0.1.2:80", "what hooks decided"]);
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let agent = Agent::start(node(1));
    let output = ctl(&agent.socket, &["top"]);
    assert_eq!(output.status.code(), Some(1));
    assert_has(&String::from_utf8_lossy(&output.stderr), &["top needs a terminal", "flannelctl peers --watch"]);
}

//! The dashboard and the alert rules: sound by themselves, about metrics that exist, and shown real data once.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use flannel_agent::{http, metrics};
use flannel_tests::{etcd::free_port, process::Process, require, scratch::Scratch, skip::Feature, wait::wait_for};
use observe_common::{agent::assert_has, context, http as ask, memory, node};

fn dist(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../flannel-agent/dist")).join(name)
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(dist("flannel-dashboard.json")).unwrap()).unwrap()
}

/// Every query of the dashboard, with the variables that Grafana would fill in.
fn queries() -> Vec<String> {
    let board = dashboard();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let filled = |text: &str| text.replace("$instance", ".*").replace("$__rate_interval", "1m");
    targets.map(|target| filled(target["expr"].as_str().unwrap())).collect()
}

/// The words in a text that look like metrics of ours.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("flannel_")).map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_mention_only_metrics_that_exist() {
    let (_agent, context) = context(node(3));
    context.traffic.set(Arc::new(memory()));
    let text = metrics::render(&context);
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let exist: BTreeSet<&str> = series.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let alerts = fs::read_to_string(dist("flannel-alerts.yml")).unwrap();
    for name in mentioned(&(queries().join(" ") + &alerts)) {
        assert!(exist.contains(name.as_str()), "there is no metric {name}");
    }
}

#[test]
fn promtool_accepts_the_alerts() {
    require!(Feature::Tool("promtool"));
    let output = Command::new("promtool").args(["check", "rules"]).arg(dist("flannel-alerts.yml")).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    assert_has(&said, &["SUCCESS: 9 rules found"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_shows_data_in_a_real_prometheus() {
    require!(Feature::Tool("prometheus"));
    let (_agent, context) = context(node(5));
    context.traffic.set(Arc::new(memory()));
    let listener = http::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(http::serve_on(listener, context, std::future::pending()));

    let dir = Scratch::new("prometheus").unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs: [{{job_name: flannel, static_configs: [{{targets: ['{target}']}}]}}]\n",
        dist("flannel-alerts.yml").canonicalize().unwrap().display()
    );
    fs::write(dir.join("prometheus.yml"), config).unwrap();
    let address = ([127, 0, 0, 1], free_port().unwrap()).into();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let prometheus = Process::spawn(command, &dir.join("log")).unwrap();

    for query in queries() {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let request = format!("GET /api/v1/query?query={encoded}");
        // Rates need two scrapes; a share of nothing is no number, but it is a series.
        let answer = tokio::task::block_in_place(|| {
            wait_for(&format!("data for {query}"), Duration::from_mins(1), || {
                std::net::TcpStream::connect(address).ok()?;
                let (code, body) = ask(address, &request);
                assert!(code == 200 || code == 503, "{query}: {body}");
                let answer: serde_json::Value = serde_json::from_str(&body).ok()?;
                // What is compared with zero may rightly be empty here: nothing moves.
                let shown = !answer["data"]["result"].as_array()?.is_empty() || query.ends_with("> 0");
                shown.then_some(())
            })
        });
        answer.unwrap_or_else(|error| panic!("{error:#}\n{}", prometheus.log()));
    }
    let (_, rules) = tokio::task::block_in_place(|| ask(address, "GET /api/v1/rules"));
    assert_has(&rules, &["FlannelLeaseEnding", "\"health\":\"ok\""]);
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");
}

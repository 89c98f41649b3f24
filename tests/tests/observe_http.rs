//! Health, metrics and the status page over HTTP, and the page in a real browser. Its picture is kept under `target/observe/`.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{fs, net::SocketAddr, path::Path, process::Command, sync::Arc};

use flannel_agent::{http, state::NodeState};
use flannel_tests::{require, scratch::Scratch, skip::Feature};
use observe_common::{agent::assert_has, context, http as ask, memory, node};
use tokio::sync::{oneshot, watch};

/// Serves a node until it is dropped.
struct Served {
    address: SocketAddr,
    state: watch::Sender<Arc<NodeState>>,
    _stop: oneshot::Sender<()>,
}

async fn serve(node: NodeState) -> Served {
    let (state, context) = context(node);
    context.traffic.set(Arc::new(memory()));
    let listener = http::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(http::serve_on(listener, context, async { stopped.await.unwrap_or_default() }));
    Served { address, state, _stop: stop }
}

/// Asks off the runtime's thread.
async fn get(address: SocketAddr, request: &'static str) -> (u16, String) {
    tokio::task::spawn_blocking(move || ask(address, request)).await.unwrap()
}

#[tokio::test]
async fn health_answers_in_flannel_s_own_words() {
    let served = serve(NodeState::default()).await;
    assert_eq!(get(served.address, "GET /healthz").await, (200, "flanneld is running".to_owned()));
    assert_eq!(get(served.address, "POST /healthz").await, (200, "flanneld is running".to_owned()));
    let (code, body) = get(served.address, "GET /readyz").await;
    assert_eq!((code, body.lines().next()), (503, Some("flanneld is not ready yet")));
    assert_eq!(get(served.address, "GET /livez").await, (503, "lease: none\n".to_owned()));
    assert_eq!(get(served.address, "GET /nothing").await.0, 404);

    let mut well = node(2);
    well.warnings.clear();
    well.fastpath.hooks.retain(|hook| hook.rung != "none");
    served.state.send(Arc::new(well)).unwrap();
    assert_eq!(get(served.address, "GET /readyz").await, (200, "flanneld is ready".to_owned()));
    assert_eq!(get(served.address, "GET /livez").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let served = serve(NodeState::default()).await;
    let error = http::listen(served.address).await.unwrap_err().to_string();
    assert_has(&error, &[&served.address.to_string(), "in use", "-healthz-port"]);
}

#[tokio::test]
async fn metrics_are_served_as_openmetrics() {
    let served = serve(node(3)).await;
    let (code, body) = get(served.address, "GET /metrics").await;
    assert_eq!(code, 200);
    assert_has(&body, &["flannel_ready 1.0\n", "# EOF\n"]);
}

#[tokio::test]
async fn the_page_needs_nothing_from_outside() {
    let served = serve(node(3)).await;
    let (code, page) = get(served.address, "GET /").await;
    assert_eq!(code, 200);
    let foreign: Vec<&str> = page.match_indices("http").map(|(at, _)| &page[at..at + 30]).collect();
    // The one address is the name of the SVG namespace, which nobody fetches.
    assert!(foreign.iter().all(|text| text.starts_with("http://www.w3.org/2000/svg")), "{foreign:?}");
    let (code, body) = get(served.address, "GET /status.json").await;
    let picture: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, picture["peers"].as_array().map(Vec::len)), (200, Some(3)));
    assert!(picture.get("flows").is_none(), "flows name containers: not for everyone who reaches the port");
}

/// Runs chromium on the page of a node, and gives what it prints.
fn chromium(address: SocketAddr, args: &[&str]) -> String {
    let profile = Scratch::new("chromium").unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1400"]);
    // Time runs ahead in the browser: the page looks several times before it is judged.
    command.arg("--virtual-time-budget=7000").arg(format!("--user-data-dir={}", profile.path().display()));
    let output = command.args(args).arg(format!("http://{address}/")).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes a picture of the page, kept under this name.
fn picture(address: SocketAddr, name: &str, args: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/observe");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    fs::remove_file(&file).unwrap_or_default();
    chromium(address, &[args, &[&format!("--screenshot={}", file.display())]].concat());
    let size = fs::metadata(&file).map(|file| file.len()).unwrap_or_default();
    assert!(size > 20_000, "the picture has {size} bytes");
    println!("picture: {}", file.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_draws_the_node_in_chromium() {
    require!(Feature::Tool("chromium"));
    let served = serve(node(18)).await;
    let page = chromium(served.address, &["--dump-dom"]);
    assert_has(
        &page,
        &[
            "flannel 192.0.2.11",
            ">ready<",
            "10.0.0.0/24, 22 h left",
            "10.0.9.0/24",
            "<line ",
            "fast_out",
            "is not on eth0's link",
        ],
    );
    assert!(
        page.contains("data-looks=\"") && !page.contains("data-looks=\"1\""),
        "the page did not update itself:\n{page}"
    );
    picture(served.address, "status.png", &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_and_large_clusters_are_drawn_in_light_and_dark() {
    require!(Feature::Tool("chromium"));
    for (peers, name, scheme) in [(3, "status-3-dark.png", 0), (500, "status-500.png", 1)] {
        let served = serve(node(peers)).await;
        picture(served.address, name, &[&format!("--blink-settings=preferredColorScheme={scheme}")]);
    }
}

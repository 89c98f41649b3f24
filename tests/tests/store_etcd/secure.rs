//! TLS and users.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;
use flannel_agent::store::{Error, Options, Store, Update};
use flannel_tests::{
    etcd::{Etcd, free_port},
    process::{Process, output},
    scratch::Scratch,
    wait::wait_until,
};

use crate::common::{connected, create, find, options, snapshot};

/// An etcd with TLS, and the files it needs.
struct Secure {
    dir: Scratch,
    port: u16,
    _etcd: Process,
}

fn openssl(dir: &Path, line: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(line.split_whitespace());
    output(command)
}

/// A certificate for 127.0.0.1 and localhost, signed by the CA of the folder.
fn certificate(dir: &Path, name: &str) {
    std::fs::write(
        dir.join("san"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .unwrap();
    openssl(
        dir,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ),
    )
    .unwrap();
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.pem"
        ),
    )
    .unwrap();
}

impl Secure {
    fn start(wants_client_certificates: bool) -> Self {
        let dir = Scratch::new("tls").unwrap();
        let path = dir.path();
        for ca in ["ca", "other-ca"] {
            openssl(path, &format!("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout {ca}.key -out {ca}.pem -subj /CN={ca}")).unwrap();
        }
        certificate(path, "server");
        certificate(path, "client");
        let port = free_port().unwrap();
        let url = format!("https://127.0.0.1:{port}");
        let mut command = Command::new("etcd");
        command.current_dir(path).args(["--data-dir", "data", "--log-level", "error", "--logger", "zap"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", free_port().unwrap())]);
        command.args(["--cert-file", "server.pem", "--key-file", "server.key"]);
        if wants_client_certificates {
            command.args(["--client-cert-auth", "--trusted-ca-file", "ca.pem"]);
        }
        let etcd = Process::spawn(command, &path.join("log")).unwrap();
        let healthy = || {
            let mut command = Command::new("etcdctl");
            command.current_dir(path).env("ETCDCTL_API", "3").args(["--endpoints", &url, "--cacert", "ca.pem"]);
            command.args(["--cert", "client.pem", "--key", "client.key", "endpoint", "health"]);
            output(command).is_ok()
        };
        wait_until("etcd with TLS", Duration::from_secs(30), healthy).unwrap();
        Self { dir, port, _etcd: etcd }
    }

    fn options(&self, endpoint: &str, ca: &str, cert: &str, key: &str) -> Options {
        let file = |name: &str| if name.is_empty() { String::new() } else { self.dir.join(name).display().to_string() };
        let endpoint = endpoint.replace("PORT", &self.port.to_string());
        Options { ca_file: file(ca), cert_file: file(cert), key_file: file(key), ..options(&endpoint) }
    }
}

async fn works(options: &Options) -> Result<(), Error> {
    let store = Store::connect(options)?;
    store.put_config("{}").await?;
    let mut updates = store.watch();
    connected(&mut updates).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_authority_without_client_certificates() {
    let etcd = Secure::start(false);
    works(&etcd.options("https://127.0.0.1:PORT", "ca.pem", "", "")).await.unwrap();
    works(&etcd.options("https://localhost:PORT", "ca.pem", "", "")).await.unwrap();
    works(&etcd.options("127.0.0.1:PORT", "ca.pem", "client.pem", "client.key")).await.unwrap();
    let error = works(&etcd.options("https://127.0.0.1:PORT", "other-ca.pem", "", "")).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let error = works(&etcd.options("https://127.0.0.1:PORT", "", "", "")).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "the system does not know this authority: {error}");
    works(&etcd.options("127.0.0.1:PORT", "ca.pem", "", "")).await.expect_err("no scheme and no certificate: plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates() {
    let etcd = Secure::start(true);
    works(&etcd.options("https://127.0.0.1:PORT", "ca.pem", "client.pem", "client.key")).await.unwrap();
    works(&etcd.options("127.0.0.1:PORT", "ca.pem", "client.pem", "client.key")).await.unwrap();
    let error = works(&etcd.options("https://127.0.0.1:PORT", "ca.pem", "", "")).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    let error = works(&etcd.options("https://127.0.0.1:PORT", "ca.pem", "client.key", "client.pem")).await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("-etcd-certfile"), "{error}");
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    std::fs::write(etcd.dir.join("broken.pem"), broken).unwrap();
    for (ca, cert, flag) in [("broken.pem", "client.pem", "-etcd-cafile"), ("ca.pem", "broken.pem", "-etcd-certfile")] {
        let error = works(&etcd.options("https://127.0.0.1:PORT", ca, cert, "client.key")).await.unwrap_err();
        let text = error.to_string();
        assert!(error.is_permanent() && text.contains(flag) && text.contains("broken.pem"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_means_plain_even_with_certificate_flags() {
    let etcd = Etcd::loopback().unwrap();
    let files = Options {
        ca_file: "/no/such".into(),
        cert_file: "/no/such".into(),
        key_file: "/no/such".into(),
        ..options(&etcd.endpoints())
    };
    works(&files).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_passwords() {
    const SECRET: &str = "s3cr3t-and-more";
    let etcd = Etcd::loopback().unwrap();
    let with = |username: &str, password: &str| Options {
        username: username.into(),
        password: password.into(),
        ..options(&etcd.endpoints())
    };
    works(&with("flannel", SECRET)).await.expect("a user is given, but the store does not ask");
    works(&with("flannel", "")).await.expect("half of them counts as nothing");
    let before = Store::connect(&with("flannel", SECRET)).unwrap();
    before.config().await.unwrap();

    for line in [
        "user add root:toor",
        "user grant-role root root",
        "role add net",
        "role grant-permission net read /coreos.com/network/config",
        "role grant-permission net --prefix readwrite /coreos.com/network/subnets",
        "user add flannel:s3cr3t-and-more",
        "user grant-role flannel net",
        "auth enable",
    ] {
        etcd.ctl(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let store = Store::connect(&with("flannel", SECRET)).unwrap();
    let mut updates = store.watch();
    snapshot(&mut updates).await;
    connected(&mut updates).await;
    create(&store, "10.1.5.0-24", "1.1.1.1").await;
    find(&mut updates, |update| matches!(update, Update::Put(_)).then_some(())).await;
    assert_eq!(before.leases().await.expect("logs in when it is asked to").0.len(), 1);

    let refused = store.put_config("{}").await.unwrap_err();
    assert!(refused.is_permanent() && refused.to_string().contains("permission denied"), "{refused}");
    for (username, password) in [("flannel", "s3cr3t"), ("nobody", SECRET), ("", "")] {
        let error = Store::connect(&with(username, password)).unwrap().config().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("s3cr3t"), "{text}");
        println!("{username:?}: {error}");
    }
    assert!(!format!("{store:?}").contains("s3cr3t"));
}

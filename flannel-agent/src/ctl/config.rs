//! `flannelctl config`.

use std::{fs, io::Read as _, path::Path};

use anyhow::{Context as _, bail};
use hyper::Method;

use super::{Outcome, print};
use crate::{admin::client::Client, cli::flannelctl::ConfigVerb, config::NetworkConfig};

pub(super) async fn run(client: &Client, verb: &ConfigVerb) -> anyhow::Result<Outcome> {
    match verb {
        ConfigVerb::Get => print(&(stored(client).await?.trim_end().to_owned() + "\n"))?,
        ConfigVerb::Set { file } => {
            let text = read(file)?;
            check(&text)?;
            client.ask::<()>(Method::PUT, "/v1/config", text).await?;
            print("written; flannelctl events tells what each node makes of it\n")?;
        }
        ConfigVerb::Check { file } => {
            let text = match file {
                Some(file) => read(file)?,
                None => stored(client).await?,
            };
            check(&text)?;
            print("valid\n")?;
        }
    }
    Ok(Outcome::Well)
}

/// The text in the store.
async fn stored(client: &Client) -> anyhow::Result<String> {
    let Some(text) = client.get::<Option<String>>("/v1/config").await? else {
        bail!("there is no configuration in etcd yet; write one with flannelctl config set FILE");
    };
    Ok(text)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    } else {
        text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    }
    Ok(text)
}

fn check(text: &str) -> anyhow::Result<()> {
    NetworkConfig::parse(text).map(drop).context("the configuration is not valid")
}

//! `flannelctl events`.

use std::time::Duration;

use super::{Outcome, is_table, lists, print, print_json};
use crate::{admin::client::Client, cli::flannelctl::Output, events::Page};

/// How often a follower asks for more.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(client: &Client, output: Output, follow: bool) -> anyhow::Result<Outcome> {
    let mut since = 0;
    loop {
        let page: Page = client.get(&format!("/v1/events?since={since}")).await?;
        // A restarted agent counts from the beginning.
        if page.next < since {
            since = 0;
            continue;
        }
        since = page.next;
        show(output, &page, follow)?;
        if !follow {
            return Ok(Outcome::Well);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn show(output: Output, page: &Page, follow: bool) -> anyhow::Result<()> {
    match (is_table(output), follow) {
        (true, _) => {
            if page.lost > 0 {
                print(&format!("({} events were lost)\n", page.lost))?;
            }
            let lines: String = page.events.iter().map(|event| lists::event(event) + "\n").collect();
            Ok(print(&lines)?)
        }
        (false, true) => page.events.iter().try_for_each(|event| print_json(event, true)),
        (false, false) => print_json(&page.events, false),
    }
}

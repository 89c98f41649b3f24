//! Traffic as it happens: `flannelctl top`.

mod rates;
mod screen;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::bail;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};

use self::rates::{Rates, Sample};
use super::Outcome;
use crate::admin::client::Client;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks at the keyboard.
const KEYS: Duration = Duration::from_millis(50);
/// Looks that the chart remembers; the widest terminals have some 400 columns.
const HISTORY: usize = 400;

/// What is on the screen.
#[derive(Debug, Default)]
struct View {
    rates: Rates,
    /// Bytes per second of the last looks, oldest first: by the fast path, and by the kernel.
    history: VecDeque<(u64, u64)>,
    /// Why the numbers stand still, if they do.
    trouble: Option<String>,
}

pub(super) async fn run(client: &Client) -> anyhow::Result<Outcome> {
    if !io::stdout().is_terminal() {
        bail!("top needs a terminal; flannelctl peers --watch and flannelctl flows --watch print into files and pipes");
    }
    // The first look comes before the screen is taken: its error is then read, not wiped away.
    let first = Sample::take(client).await?;
    let mut terminal = ratatui::try_init()?;
    let outcome = watch(client, &mut terminal, first).await;
    ratatui::try_restore()?;
    outcome
}

async fn watch(client: &Client, terminal: &mut DefaultTerminal, first: Sample) -> anyhow::Result<Outcome> {
    let mut last = first;
    let mut view = View { rates: Rates::between(&last, &last), ..View::default() };
    loop {
        terminal.draw(|frame| screen::draw(frame, &view))?;
        let next = Instant::now() + PERIOD;
        while Instant::now() < next {
            if event::poll(Duration::ZERO)? {
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press && is_end(key.code, key.modifiers) => {
                        return Ok(Outcome::Well);
                    }
                    // A new size, for example.
                    _ => {
                        terminal.draw(|frame| screen::draw(frame, &view))?;
                    }
                }
            }
            tokio::time::sleep(KEYS).await;
        }
        match Sample::take(client).await {
            Ok(sample) => {
                view.rates = Rates::between(&last, &sample);
                view.trouble = None;
                view.history.push_back((view.rates.fast.bytes as u64, view.rates.slow.bytes as u64));
                if view.history.len() > HISTORY {
                    view.history.pop_front();
                }
                last = sample;
            }
            Err(error) => view.trouble = Some(format!("{error:#}")),
        }
    }
}

fn is_end(code: KeyCode, modifiers: KeyModifiers) -> bool {
    matches!(code, KeyCode::Char('q') | KeyCode::Esc)
        || (code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL))
}

//! `gpulock top`: a live view of the locks in the terminal.
//!
//! # Layout
//! - [`poller`]: the thread that queries the server, so that keys never wait for a reply
//! - [`state`], [`rows`], [`history`]: the data and the selection, without a clock
//! - [`input`]: key bindings
//! - [`draw`]: draws the state
//! - [`screen`]: sets up and restores the terminal
//! - [`signals`]: terminate, stop and continue

mod draw;
mod history;
mod input;
mod poller;
mod rows;
#[cfg(test)]
mod sample;
mod screen;
mod signals;
mod state;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ratatui::crossterm::event::{self, Event};

use self::draw::Canvas;
use self::poller::{Request, Update};
use self::screen::Screen;
use self::state::{Action, State};
use crate::server::Address;
use crate::term;

/// How often updates are checked for.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);

/// The options of `gpulock top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds between updates
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
}

/// Shows the locks until the user quits.
///
/// # Errors
/// If there is no terminal, or the first query fails.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!("top needs a terminal; use gpulock ls instead");
    }
    if term::is_dumb() {
        bail!(
            "top needs a terminal that can move its cursor, not TERM=dumb; use gpulock ls instead"
        );
    }
    let mut connection = address.connect()?;
    let first = poller::snapshot(&mut connection, None)?;
    let server = address.shown()?;
    let state = State::new(server, args.interval, first, Instant::now());
    let mut screen = Screen::open()?;
    let (requests, updates) = poller::start(address.clone(), connection, args.interval);
    run_loop(&mut screen, state, &requests, &updates)?;
    Ok(ExitCode::SUCCESS)
}

fn run_loop(
    screen: &mut Screen,
    mut state: State,
    requests: &Sender<Request>,
    updates: &Receiver<Update>,
) -> Result<()> {
    let mut canvas = Canvas::default();
    let mut inspected = None;
    loop {
        for update in updates.try_iter() {
            state.update(update, Instant::now());
        }
        if inspected.as_ref() != state.inspected_key() {
            inspected = state.inspected_key().cloned();
            requests.send(Request::Inspect(inspected.clone()))?;
        }
        screen.draw(|frame| canvas.draw(frame, &state, Instant::now()))?;
        match next_action(&mut state, &canvas)? {
            Some(Action::Quit) => return Ok(()),
            Some(Action::Suspend) => signals::suspend()?,
            Some(Action::ForceRelease(hold)) => {
                requests.send(Request::ForceRelease(hold))?;
            }
            None => {}
        }
    }
}

/// Handles the next key, if one is pressed within the update interval.
fn next_action(state: &mut State, canvas: &Canvas) -> Result<Option<Action>> {
    if !event::poll(UPDATE_INTERVAL)? {
        return Ok(None);
    }
    let intent = match event::read()? {
        Event::Key(key) => input::intent(key, state.mode()),
        _ => None,
    };
    Ok(intent.and_then(|intent| state.act(intent, canvas.page(), Instant::now())))
}

fn seconds(argument: &str) -> Result<Duration, String> {
    let seconds: f64 =
        argument.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if (0.1..=3600.0).contains(&seconds) => Ok(interval),
        _ => Err("must be from 0.1 to 3600".to_owned()),
    }
}

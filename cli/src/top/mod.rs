//! `gpulock top`: the locks as they are now, on a screen that follows them.
//!
//! # Layout
//! - [`asker`]: a thread that asks the server, so that no key waits for an answer
//! - [`state`], [`rows`], [`history`]: what is known and what is chosen, without a clock
//! - [`input`]: which key means what
//! - [`draw`]: the picture
//! - [`screen`]: the terminal, and that it is given back
//! - [`signals`]: what ends, stops and continues it

mod asker;
mod draw;
mod history;
mod input;
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

use self::asker::{News, Order};
use self::draw::Picture;
use self::screen::Screen;
use self::state::{State, Wish};
use crate::server::Address;

/// How long news may wait until they are looked for.
const GLANCE: Duration = Duration::from_millis(100);

/// The options of `gpulock top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
}

/// Follows the locks until somebody quits.
///
/// # Errors
/// When there is no terminal, or the first look fails.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!("top needs a terminal; without one there is gpulock ls");
    }
    let mut connection = address.connect()?;
    let first = asker::look(&mut connection, None)?;
    let server = address.shown(&address.client()?);
    let state = State::new(server, args.interval, first, Instant::now());
    let mut screen = Screen::take()?;
    let (orders, news) = asker::start(address.clone(), connection, args.interval);
    follow(&mut screen, state, &orders, &news)?;
    Ok(ExitCode::SUCCESS)
}

fn follow(
    screen: &mut Screen,
    mut state: State,
    orders: &Sender<Order>,
    news: &Receiver<News>,
) -> Result<()> {
    let mut picture = Picture::default();
    let mut watched = None;
    loop {
        for news in news.try_iter() {
            state.hear(news, Instant::now());
        }
        if watched.as_ref() != state.watched() {
            watched = state.watched().cloned();
            orders.send(Order::Watch(watched.clone()))?;
        }
        screen.draw(|frame| picture.draw(frame, &state, Instant::now()))?;
        match wish(&mut state, &picture)? {
            Some(Wish::Quit) => return Ok(()),
            Some(Wish::Suspend) => signals::suspend()?,
            Some(Wish::Take(victim)) => orders.send(Order::Take(victim))?,
            None => {}
        }
    }
}

/// What the next key makes of it, if one comes soon.
fn wish(state: &mut State, picture: &Picture) -> Result<Option<Wish>> {
    if !event::poll(GLANCE)? {
        return Ok(None);
    }
    let intent = match event::read()? {
        Event::Key(key) => input::intent(key, state.mode()),
        _ => None,
    };
    Ok(intent.and_then(|intent| state.act(intent, picture.page(), Instant::now())))
}

fn seconds(argument: &str) -> Result<Duration, String> {
    let seconds: f64 = argument.parse().map_err(|_| "no number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if (0.1..=3600.0).contains(&seconds) => Ok(interval),
        _ => Err("must be from 0.1 to 3600".to_owned()),
    }
}

//! A script that runs past `busy-reply-threshold` releases a lock as the lock manager that this
//! module replaces does: it reads the key, compares, and deletes. The holder's connection
//! closes meanwhile, which the server notices in the middle of the script. The key must not
//! change between two steps of the script, and nobody else's lock may be deleted.

use std::time::Duration;

use gpulock_testkit::{Client, Value};

use super::own_client::Holder;
use super::{Fault, Site};
use crate::client::LONGEST_LEASE_MS;
use crate::clock::now;
use crate::history::{Answer, Ask, Call, Entry, Event};

/// The `busy-reply-threshold` of the server, in ms.
pub(crate) const THRESHOLD_MS: u64 = 10;

pub(super) struct BusyScript;

impl Fault for BusyScript {
    fn name(&self) -> &'static str {
        "busy-script"
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let Some(holder) = Holder::of_some_lock(site, LONGEST_LEASE_MS)? else {
            return Ok(false);
        };
        // A server that is paused would not begin.
        site.must("CLIENT UNPAUSE")?;
        let mut runner = runner(site, &holder)?;
        site.refuse("BUSY ", |site| run(site, holder, &mut runner))
    }
}

fn run(site: &mut Site, holder: Holder, runner: &mut Client) -> Result<bool, String> {
    let (lock, owner, from) = (holder.lock, holder.owner, now());
    let code = script(site);
    let ms = site.dice.between(4 * THRESHOLD_MS, 12 * THRESHOLD_MS);
    let deletes = if site.dice.percent(50) { "1" } else { "0" };
    let is_function = site.dice.percent(50);
    let call = if is_function { ["FCALL", "release_slowly"] } else { ["EVAL", &code] };
    let (key, name, ms) = (lock.key(), owner.to_string(), ms.to_string());
    runner.send(&[call[0], call[1], "1", &key, &name, &ms, deletes]);
    let mut probe = site.server.client();
    // Until the server processes events in the middle of the script.
    let reply = loop {
        let answer = probe.line("PING");
        if answer.is_err() && answer.err().starts_with("BUSY ") {
            break None;
        }
        if let Some(reply) = runner.read_within(Duration::from_micros(100)) {
            break Some(reply);
        }
    };
    holder.client.close(site);
    if site.dice.percent(20) {
        site.crew.kill_one()?;
    }
    let reply = reply.unwrap_or_else(|| runner.read());
    let to = now();
    let Value::Array(reply) = &reply else { return Err(format!("script: {reply:?}")) };
    let [first, last, deleted] = &reply[..] else {
        return Err(format!("script: {reply:?}"));
    };
    let text = |value: &Value| (!value.is_null()).then(|| value.text());
    let (first, last) = (text(first), text(last));
    site.excuse(Event::ReadTwice { lock, first, last, from, to });
    if *deleted == 1 {
        // For the lock this is the same as a FORCERELEASE from this owner.
        let connection = site.own_connection();
        site.write(Entry::Call(Call {
            connection,
            asked: from,
            heard: to,
            ask: Ask::Force { lock, owner: Some(owner), token: None },
            answer: Answer::Taken(name),
        }));
    }
    Ok(true)
}

/// A connection for the script, with the function loaded.
fn runner(site: &mut Site, holder: &Holder) -> Result<Client, String> {
    let mut runner = site.server.client();
    runner.line(&format!("SELECT {}", holder.lock.0));
    let body = script(site).replace("KEYS", "keys").replace("ARGV", "args");
    let code = format!(
        "#!lua name=slow\nredis.register_function('release_slowly', \
         function(keys, args) {body} end)"
    );
    match runner.cmd(&["FUNCTION", "LOAD", "REPLACE", &code]) {
        loaded if loaded == "slow" => Ok(runner),
        answer => Err(format!("FUNCTION LOAD: {answer:?}")),
    }
}

/// `KEYS[1]` is the lock, `ARGV` its owner, how long to be busy in ms, and whether to delete.
fn script(site: &Site) -> String {
    let get = site.command("GET");
    format!(
        "local first = redis.call('{get}', KEYS[1])
         local function now()
             local time = redis.call('TIME')
             return time[1] * 1000 + time[2] / 1000
         end
         local done = now() + ARGV[2]
         while now() < done do for _ = 1, 1000 do end end
         local last = redis.call('{get}', KEYS[1])
         local deleted = 0
         if first == ARGV[1] and ARGV[3] == '1' then
             deleted = redis.call('DEL', KEYS[1])
         end
         return {{first, last, deleted}}"
    )
}

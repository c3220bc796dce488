//! A script that runs past `busy-reply-threshold` releases a lock as the lock manager
//! that this module replaces does: it reads the key, compares the owner, and deletes the
//! key. Meanwhile the holder's connection closes, which the server notices during the
//! script. The key must not change between two commands of the script, and the script
//! must not delete the lock of another owner.

use std::time::Duration;

use gpulock_testkit::{Client, Value};

use super::fault_client::Holder;
use super::{Fault, FaultContext};
use crate::client::LONGEST_LEASE_MS;
use crate::clock::now;
use crate::history::{Call, Entry, Event, Reply, Request};
use crate::rng::chance;

/// The server's `busy-reply-threshold` in ms.
pub(crate) const THRESHOLD_MS: u64 = 10;

pub(super) struct BusyScript;

impl Fault for BusyScript {
    fn name(&self) -> &'static str {
        "busy-script"
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let Some(holder) = Holder::of_random_lock(context, LONGEST_LEASE_MS)? else {
            return Ok(false);
        };
        // A paused server would not start the script.
        context.expect_ok("CLIENT UNPAUSE")?;
        let mut runner = runner(context, &holder)?;
        context.expect_error("BUSY ", |context| run(context, holder, &mut runner))
    }
}

fn run(
    context: &mut FaultContext,
    holder: Holder,
    runner: &mut Client,
) -> Result<bool, String> {
    let (lock, owner, from) = (holder.lock, holder.owner, now());
    let code = script(context);
    let ms = context.rng.u64(4 * THRESHOLD_MS..=12 * THRESHOLD_MS);
    let deletes = if context.rng.bool() { "1" } else { "0" };
    let is_function = context.rng.bool();
    let call = if is_function { ["FCALL", "release_slowly"] } else { ["EVAL", &code] };
    let (key, name, ms) = (lock.key(), owner.to_string(), ms.to_string());
    runner.send(&[call[0], call[1], "1", &key, &name, &ms, deletes]);
    let mut probe = context.server.client();
    // Wait until the server processes events during the script.
    let reply = loop {
        let reply = probe.line("PING");
        if reply.is_err() && reply.err().starts_with("BUSY ") {
            break None;
        }
        if let Some(reply) = runner.read_within(Duration::from_micros(100)) {
            break Some(reply);
        }
    };
    holder.client.close(context);
    if chance(&mut context.rng, 20) {
        context.workers.kill_one()?;
    }
    let reply = reply.unwrap_or_else(|| runner.read());
    let to = now();
    let Value::Array(reply) = &reply else { return Err(format!("script: {reply:?}")) };
    let [first, last, deleted] = &reply[..] else {
        return Err(format!("script: {reply:?}"));
    };
    let text = |value: &Value| (!value.is_null()).then(|| value.text());
    let (first, last) = (text(first), text(last));
    context.record_event(Event::ScriptReads { lock, first, last, from, to });
    if *deleted == 1 {
        // For the lock, this is equivalent to a FORCERELEASE from this owner.
        let connection = context.new_connection();
        context.write(Entry::Call(Call {
            connection,
            sent: from,
            received: to,
            request: Request::ForceRelease {
                lock,
                owner: Some(owner),
                token: None,
                after_ms: None,
            },
            reply: Reply::ForceReleased(name),
        }));
    }
    Ok(true)
}

/// A connection for the script, with the function loaded.
fn runner(context: &mut FaultContext, holder: &Holder) -> Result<Client, String> {
    let mut runner = context.server.client();
    runner.line(&format!("SELECT {}", holder.lock.0));
    let body = script(context).replace("KEYS", "keys").replace("ARGV", "args");
    let code = format!(
        "#!lua name=slow\nredis.register_function('release_slowly', \
         function(keys, args) {body} end)"
    );
    match runner.cmd(&["FUNCTION", "LOAD", "REPLACE", &code]) {
        loaded if loaded == "slow" => Ok(runner),
        reply => Err(format!("FUNCTION LOAD: {reply:?}")),
    }
}

/// `KEYS[1]` is the lock; `ARGV` is its owner, how long to be busy in ms, and whether to
/// delete.
fn script(context: &FaultContext) -> String {
    let get = context.command_name("GET");
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

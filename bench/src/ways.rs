//! The ways to take a free lock and to give it back, as commands: ours, what people use
//! today, and the server's own limit. How they are measured stands elsewhere.

use anyhow::Result;
use redis::{Cmd, Connection, Value, cmd};

use crate::names;
use crate::packed::Packed;

/// The lock. Key and owner are as long as those of the replaced system.
pub(crate) const LOCK: &str = "gpu_lock:node7:0";
/// Who takes it.
pub(crate) const OWNER: &str = "locked_by_transcribe:worker3:8f2c1a9b";
/// The lease, in milliseconds.
pub(crate) const LEASE: u64 = 600_000;
/// How many pairs go in one pipeline: with more at a time the way through the sockets
/// weighs less, and what a pair itself costs weighs more.
pub(crate) const PIPELINE: usize = 50;

/// A key that is there, to be read.
const STANDING: &str = "gpu_lock:node7:1";

const TAKE: &str = "return redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])";
const GIVE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then \
                    return redis.call('del', KEYS[1]) else return 0 end";

/// One way.
pub(crate) struct Way {
    /// Its name in the figures.
    pub name: &'static str,
    /// Takes the lock.
    pub take: Cmd,
    /// Gives it back.
    pub give: Cmd,
}

impl Way {
    /// A pipeline of pairs.
    pub(crate) fn pipeline(&self) -> Packed {
        Packed::new([&self.take, &self.give].into_iter().cycle().take(2 * PIPELINE))
    }
}

/// What no pair of commands can beat, on this server.
pub(crate) fn limits(connection: &mut Connection) -> Result<Vec<Way>> {
    cmd("SET").arg(STANDING).arg(OWNER).exec(connection)?;
    let get = words(&["GET", STANDING]);
    let ping = words(&["PING"]);
    Ok(vec![
        Way { name: names::PING, take: ping.clone(), give: ping },
        Way { name: names::GET, take: get.clone(), give: get },
    ])
}

/// All that takes a lock, on this server, which is taught the scripts. Not every server
/// knows `DELIFEQ`.
pub(crate) fn locks(connection: &mut Connection) -> Result<Vec<Way>> {
    let (take_script, give_script) =
        (script(connection, TAKE)?, script(connection, GIVE)?);
    load_functions(connection)?;
    let mut ways = vec![native()];
    if knows(connection, "DELIFEQ")? {
        let give = words(&["DELIFEQ", LOCK, OWNER]);
        ways.push(Way { name: names::DELIFEQ, take: native_take(), give });
    }
    let (take, give) =
        (scripted("EVALSHA", &take_script), scripted("EVALSHA", &give_script));
    ways.push(Way { name: names::SET_EVALSHA, take: native_take(), give: give.clone() });
    ways.push(Way { name: names::LUA, take: with_lease(take), give });
    let (take, give) = (scripted("FCALL", "take"), scripted("FCALL", "give"));
    ways.push(Way { name: names::FCALL, take: with_lease(take), give });
    ways.push(ours());
    Ok(ways)
}

/// The native pair, which compares no owner.
pub(crate) fn native() -> Way {
    Way { name: names::NATIVE, take: native_take(), give: words(&["DEL", LOCK]) }
}

/// Our own.
pub(crate) fn ours() -> Way {
    let take = with_lease(words(&["GPULOCK.ACQUIRE", LOCK, OWNER, "PX"]));
    Way { name: names::OURS, take, give: words(&["GPULOCK.RELEASE", LOCK, OWNER]) }
}

/// A command of these words.
pub(crate) fn words(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}

fn native_take() -> Cmd {
    with_lease(words(&["SET", LOCK, OWNER, "NX", "PX"]))
}

/// The call of a script or a function for the lock and its owner.
fn scripted(command: &str, name: &str) -> Cmd {
    words(&[command, name, "1", LOCK, OWNER])
}

fn with_lease(mut take: Cmd) -> Cmd {
    take.arg(LEASE);
    take
}

fn script(connection: &mut Connection, body: &str) -> Result<String> {
    Ok(cmd("SCRIPT").arg("LOAD").arg(body).query(connection)?)
}

/// The scripts as a library of functions.
fn load_functions(connection: &mut Connection) -> Result<()> {
    let function = |name: &str, body: &str| {
        format!("redis.register_function('{name}', function(KEYS, ARGV) {body} end)\n")
    };
    let library =
        format!("#!lua name=locks\n{}{}", function("take", TAKE), function("give", GIVE));
    Ok(cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(library).exec(connection)?)
}

fn knows(connection: &mut Connection, command: &str) -> Result<bool> {
    let said: Vec<Value> = cmd("COMMAND").arg("INFO").arg(command).query(connection)?;
    Ok(said != [Value::Nil])
}

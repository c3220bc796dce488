//! The command pairs that acquire and release a free lock: GPULOCK, the usual alternatives,
//! and the lower bounds of the server.

use anyhow::Result;
use redis::{Cmd, Connection, Value, cmd};

use crate::names;
use crate::pipeline::Pipeline;

/// The lock. Key and owner have the length that they have in the lock manager that the
/// module replaces.
pub(crate) const LOCK: &str = "gpu_lock:node7:0";
/// The owner.
pub(crate) const OWNER: &str = "locked_by_transcribe:worker3:8f2c1a9b";
/// The lease, in milliseconds.
pub(crate) const LEASE: u64 = 600_000;
/// Pairs per pipeline. The more pairs, the less the socket calls weigh.
pub(crate) const PIPELINE: usize = 50;

/// An existing key to read.
const EXISTING: &str = "gpu_lock:node7:1";

const ACQUIRE: &str = "return redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])";
const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then \
                       return redis.call('del', KEYS[1]) else return 0 end";

/// One pair.
pub(crate) struct LockPair {
    /// Name in the results.
    pub name: &'static str,
    /// Acquires the lock.
    pub acquire: Cmd,
    /// Releases it.
    pub release: Cmd,
}

impl LockPair {
    /// A pipeline of pairs.
    pub(crate) fn pipeline(&self) -> Pipeline {
        Pipeline::new(
            [&self.acquire, &self.release].into_iter().cycle().take(2 * PIPELINE),
        )
    }
}

/// Pairs of commands without a lock, which no lock can beat.
pub(crate) fn lower_bounds(connection: &mut Connection) -> Result<Vec<LockPair>> {
    cmd("SET").arg(EXISTING).arg(OWNER).exec(connection)?;
    let get = command(&["GET", EXISTING]);
    let ping = command(&["PING"]);
    Ok(vec![
        LockPair { name: names::PING, acquire: ping.clone(), release: ping },
        LockPair { name: names::GET, acquire: get.clone(), release: get },
    ])
}

/// All locks. Loads the scripts and functions; `DELIFEQ` is left out on servers without it.
pub(crate) fn locks(connection: &mut Connection) -> Result<Vec<LockPair>> {
    let (acquire_script, release_script) =
        (load_script(connection, ACQUIRE)?, load_script(connection, RELEASE)?);
    load_functions(connection)?;
    let mut pairs = vec![native()];
    if has_command(connection, "DELIFEQ")? {
        let release = command(&["DELIFEQ", LOCK, OWNER]);
        pairs.push(LockPair { name: names::DELIFEQ, acquire: native_acquire(), release });
    }
    let (acquire, release) =
        (scripted("EVALSHA", &acquire_script), scripted("EVALSHA", &release_script));
    pairs.push(LockPair {
        name: names::SET_EVALSHA,
        acquire: native_acquire(),
        release: release.clone(),
    });
    pairs.push(LockPair { name: names::LUA, acquire: with_lease(acquire), release });
    let (acquire, release) = (scripted("FCALL", "acquire"), scripted("FCALL", "release"));
    pairs.push(LockPair { name: names::FCALL, acquire: with_lease(acquire), release });
    pairs.push(ours());
    Ok(pairs)
}

/// The native pair, which does not compare the owner.
pub(crate) fn native() -> LockPair {
    let release = command(&["DEL", LOCK]);
    LockPair { name: names::NATIVE, acquire: native_acquire(), release }
}

/// The GPULOCK pair.
pub(crate) fn ours() -> LockPair {
    let acquire = with_lease(command(&["GPULOCK.ACQUIRE", LOCK, OWNER, "PX"]));
    let release = command(&["GPULOCK.RELEASE", LOCK, OWNER]);
    LockPair { name: names::OURS, acquire, release }
}

/// A command made of these words.
pub(crate) fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}

fn native_acquire() -> Cmd {
    with_lease(command(&["SET", LOCK, OWNER, "NX", "PX"]))
}

/// The call of a script or a function with the lock and its owner.
fn scripted(name: &str, script: &str) -> Cmd {
    command(&[name, script, "1", LOCK, OWNER])
}

fn with_lease(mut acquire: Cmd) -> Cmd {
    acquire.arg(LEASE);
    acquire
}

fn load_script(connection: &mut Connection, body: &str) -> Result<String> {
    Ok(cmd("SCRIPT").arg("LOAD").arg(body).query(connection)?)
}

/// Loads the scripts as a library of functions.
fn load_functions(connection: &mut Connection) -> Result<()> {
    let function = |name: &str, body: &str| {
        format!("redis.register_function('{name}', function(KEYS, ARGV) {body} end)\n")
    };
    let library = format!(
        "#!lua name=locks\n{}{}",
        function("acquire", ACQUIRE),
        function("release", RELEASE)
    );
    Ok(cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(library).exec(connection)?)
}

fn has_command(connection: &mut Connection, name: &str) -> Result<bool> {
    let info: Vec<Value> = cmd("COMMAND").arg("INFO").arg(name).query(connection)?;
    Ok(info != [Value::Nil])
}

//! Tens of thousands of random calls, valid, invalid and garbage: the server survives, its
//! counters add up, nothing is left behind, and refused calls change nothing. `GPULOCK_FUZZ`
//! sets the number of calls of each test (`make fuzz`), `GPULOCK_SEED` the calls.

use fastrand::Rng;

use crate::support::call_generator::Words;
use crate::support::rng::Pick;

pub(crate) mod call_storm;
pub(crate) mod refused_calls;

/// The number of calls without `GPULOCK_FUZZ`: a few seconds on each server.
const DEFAULT_CALLS: usize = 20_000;

/// The number of calls that each test sends.
fn calls_to_send() -> usize {
    let given = std::env::var("GPULOCK_FUZZ").ok();
    given.map_or(DEFAULT_CALLS, |calls| calls.parse().expect("GPULOCK_FUZZ: a number"))
}

const RELAY: &str = "#!lua name=relay
    redis.register_function('relay', function(_, args)
        return redis.pcall(unpack(args)) end)";

/// A script that reads a key at its start and at its end, and is busy in between, so that the
/// server processes events in the meantime.
const BUSY: &str = "
    local function now()
        local time = redis.call('TIME')
        return time[1] * 1000 + time[2] / 1000
    end
    local first, done = redis.call('GET', KEYS[1]), now() + 10
    while now() < done do for _ = 1, 1000 do end end
    return redis.call('GET', KEYS[1]) == first and 'SAME' or 'CHANGED'";

/// The call, made through a script or a function.
fn relayed(rng: &mut Rng, words: &Words) -> Words {
    let prefixes: [&[&str]; 3] = [
        &["EVAL", "return redis.pcall(unpack(ARGV))", "0"],
        &["EVAL_RO", "return redis.pcall(unpack(ARGV))", "0"],
        &["FCALL", "relay", "0"],
    ];
    let prefix = rng.pick(&prefixes).iter().map(|word| word.as_bytes().to_vec());
    prefix.chain(words.iter().cloned()).collect()
}

fn display(words: &Words) -> String {
    let word = |word: &Vec<u8>| match word.len() {
        0..1100 => format!("\"{}\"", word.escape_ascii()),
        length => format!("<{length} bytes>"),
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

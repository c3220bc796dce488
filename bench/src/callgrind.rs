//! Servers under callgrind, which counts instructions: the counts do not depend on the load
//! of the machine.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gpulock_testkit::{Builder, Flavour};

use crate::server::BenchServer;

/// Name of the dumps in the folder of the server; a number is appended for each.
const PROFILE: &str = "profile";

/// The command that runs a server program under callgrind. Children are traced because the
/// program may be a script that starts the server. The server's timer function is excluded
/// if it has a name: one tick more or less would distort a count.
const COMMAND: [&str; 7] = [
    "valgrind",
    "--tool=callgrind",
    "--trace-children=yes",
    "--toggle-collect=serverCron*",
    "--collect-atstart=yes",
    "--callgrind-out-file=profile",
    "-q",
];

/// Length of the idle period that measures timer work.
const IDLE: Duration = Duration::from_secs(2);

/// A server under callgrind.
pub(crate) struct CallgrindServer {
    server: BenchServer,
}

/// The cost of a piece of work.
pub(crate) struct Cost {
    /// Instructions by location.
    pub profile: Profile,
    /// Wall-clock time.
    pub seconds: f64,
}

impl CallgrindServer {
    /// Starts a server, with the module if there is one, and with the settings added by
    /// `configure`. Under callgrind, commands take fifty times longer while timers keep their
    /// pace, so the lowest timer frequency is set.
    pub(crate) fn start(
        flavour: &Flavour,
        module: Option<&Path>,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        version().context("counting instructions needs valgrind")?;
        let under = |builder: Builder| configure(builder.under(&COMMAND).arg("hz", 1));
        Ok(Self { server: BenchServer::start(flavour, module, under)? })
    }

    /// The server.
    pub(crate) const fn server(&self) -> &BenchServer {
        &self.server
    }

    /// Returns what the server spent on the work.
    pub(crate) fn cost_of(&self, work: impl FnOnce() -> Result<()>) -> Result<Cost> {
        self.control("-z")?;
        let start = Instant::now();
        work()?;
        let seconds = start.elapsed().as_secs_f64();
        self.control("-d")?;
        Ok(Cost { profile: Profile::parse(&self.take_dump()?)?, seconds })
    }

    /// Instructions per second of timer work outside the module, measured in an idle period.
    /// Includes the timer function itself only if it has no name.
    pub(crate) fn idle_rate(&self) -> Result<f64> {
        let spent = self.cost_of(|| {
            sleep(IDLE);
            Ok(())
        })?;
        let outside = spent.profile.instructions - spent.profile.calls_in.instructions;
        Ok(outside / spent.seconds)
    }

    fn control(&self, order: &str) -> Result<()> {
        let status = Command::new("callgrind_control")
            .arg(order)
            .arg(self.server.process().pid().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("failed to start callgrind_control (part of valgrind)")?;
        ensure!(status.success(), "callgrind_control {order}: {status}");
        Ok(())
    }

    /// Reads and deletes the dump, so that there is only one at a time.
    fn take_dump(&self) -> Result<String> {
        let mut dumps: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(self.server.process().dir())? {
            let path = entry?.path();
            let extension = path.extension().and_then(|number| number.to_str());
            if path.file_stem().is_some_and(|stem| stem == PROFILE)
                && extension.is_some_and(|number| number.parse::<u32>().is_ok())
            {
                dumps.push(path);
            }
        }
        let [dump] = &*dumps else {
            bail!("expected one callgrind dump, found {dumps:?}")
        };
        let text = fs::read_to_string(dump)?;
        fs::remove_file(dump)?;
        Ok(text)
    }
}

/// The version of valgrind.
pub(crate) fn version() -> Result<String> {
    let output =
        Command::new("valgrind").arg("--version").output().context("valgrind")?;
    let version = String::from_utf8_lossy(&output.stdout);
    Ok(version.trim().trim_start_matches("valgrind-").to_owned())
}

impl Cost {
    /// Instructions without the timer work in that time.
    pub(crate) fn without_timers(&self, idle_rate: f64) -> f64 {
        self.profile.instructions - idle_rate * self.seconds
    }
}

/// Calls between the server and the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Calls {
    /// Number of calls.
    pub times: f64,
    /// Instructions, including those of nested calls.
    pub instructions: f64,
}

impl Calls {
    fn add(&mut self, times: f64, instructions: f64) {
        self.times += times;
        self.instructions += instructions;
    }
}

/// The relevant parts of a callgrind dump: the module's own code, and the calls between
/// server and module.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Profile {
    /// All instructions.
    pub instructions: f64,
    /// Instructions of the module's own code.
    pub module_code: f64,
    /// Calls into the module.
    pub calls_in: Calls,
    /// Calls out of the module, by function.
    pub calls_out: BTreeMap<String, Calls>,
}

/// A call; its cost is on the next line of the dump.
struct Call<'a> {
    into_module: bool,
    function: &'a str,
    times: f64,
}

impl Profile {
    /// Parses a dump. Its lines name the object file (`ob=`), then list costs. A call names
    /// the callee (`cob=` if in another object file, `cfn=`), then the number of calls
    /// (`calls=`); the next line is its cost.
    fn parse(dump: &str) -> Result<Self> {
        let (mut objects, mut functions) = (HashMap::new(), HashMap::new());
        let mut profile = Self::default();
        let mut in_module = false;
        let mut into_module = false;
        let mut function = "";
        let mut call = None;
        for line in dump.lines() {
            match line.split_once('=') {
                Some(("ob", named)) => {
                    in_module = is_module(name(&mut objects, named));
                    into_module = in_module;
                }
                Some(("cob", named)) => {
                    into_module = is_module(name(&mut objects, named))
                }
                Some(("fn", named)) => _ = name(&mut functions, named),
                Some(("cfn", named)) => function = name(&mut functions, named),
                Some(("calls", numbers)) => {
                    let times = number(numbers.split(' ').next())?;
                    call = Some(Call { into_module, function, times });
                    into_module = in_module;
                }
                Some(_) => {}
                None if line.starts_with(['+', '-', '*']) || starts_with_digit(line) => {
                    let cost = number(line.split(' ').nth(1))?;
                    profile.add(in_module, call.take(), cost);
                }
                None => {}
            }
            if let Some(total) = line.strip_prefix("totals: ") {
                profile.instructions = number(Some(total))?;
            }
        }
        Ok(profile)
    }

    fn add(&mut self, in_module: bool, call: Option<Call<'_>>, cost: f64) {
        match call {
            None if in_module => self.module_code += cost,
            Some(call) if in_module && !call.into_module => {
                let called = self.calls_out.entry(call.function.to_owned()).or_default();
                called.add(call.times, cost);
            }
            Some(call) if !in_module && call.into_module => {
                self.calls_in.add(call.times, cost);
            }
            _ => {}
        }
    }
}

/// Resolves a name, which is only given in full at its first occurrence:
/// `(12) gpulock_core::table::…`, later `(12)`.
fn name<'a>(known: &mut HashMap<&'a str, &'a str>, text: &'a str) -> &'a str {
    if let Some((number, name)) = text.split_once(' ') {
        known.insert(number, name);
    }
    let number = text.split(' ').next().unwrap_or_default();
    known.get(number).copied().unwrap_or_default()
}

fn is_module(object: &str) -> bool {
    object.ends_with("/libgpulock.so")
}

fn starts_with_digit(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_digit())
}

fn number(word: Option<&str>) -> Result<f64> {
    let word = word.context("missing number in a callgrind dump")?;
    word.trim()
        .parse()
        .with_context(|| format!("invalid number {word:?} in a callgrind dump"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Excerpt from a dump of Redis 7.0.
    const DUMP: &str = "\
# callgrind format
positions: line
events: Ir
summary: 174844

ob=(8) /usr/lib/libgpulock.so
fl=(446) ???
fn=(4364) gpulock_core::settle::<impl gpulock_core::keeper::Keeper>::settle
0 339
cob=(3) /usr/lib/libc.so.6
cfi=(303) ./string/memcmp-avx2-movbe.S
cfn=(1554) __memcmp_avx2_movbe
calls=3 80 
0 27
0 36
cfn=(4374) gpulock_core::alarm::<impl gpulock_core::keeper::Keeper>::rearm
calls=3 0 
0 111
0 48

fn=(4464) gpulock_core::table::Table::find
0 357
cob=(3)
cfi=(303)
cfn=(1554)
calls=3 80 
0 27
0 63

ob=(6) /usr/bin/redis-server
fl=(504) module.c
fn=(3978) moduleFireServerEvent
-6 24
+49 12
cob=(8)
cfi=(446)
cfn=(4010) gpulock::server::events::happened
calls=12 0 
* 1224
+1 24
cfn=(3634) moduleFreeContext
calls=12 725 
* 528
* 12

totals: 182180
";

    #[test]
    fn module_and_server_are_separated() -> Result<()> {
        let memcmp = Calls { times: 6.0, instructions: 54.0 };
        let expected = Profile {
            instructions: 182_180.0,
            module_code: f64::from(339 + 36 + 48 + 357 + 63),
            calls_in: Calls { times: 12.0, instructions: 1_224.0 },
            calls_out: BTreeMap::from([("__memcmp_avx2_movbe".to_owned(), memcmp)]),
        };
        assert_eq!(Profile::parse(DUMP)?, expected);
        Ok(())
    }

    #[test]
    fn an_invalid_dump_is_rejected() {
        assert!(Profile::parse("fn=(1) main\ncalls=often 3\n").is_err());
    }
}

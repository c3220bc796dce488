//! A server under callgrind, which counts its instructions: they do not depend on the
//! machine's mood. Here are the counting and the reading of what callgrind writes; what is
//! counted, and what a count means, stands with the parts of the bench.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gpulock_testkit::{Builder, Flavour};

use crate::served::Served;

/// Where callgrind writes, in the folder of the server: a number follows for each dump.
const PROFILE: &str = "profile";

/// How a server program comes to run under callgrind. It may be a script that starts the
/// server proper, which is why children are followed. What the server does by the clock,
/// at each of its ticks, is not counted where its function has a name: a tick more or less
/// while something is counted would show.
const UNDER: [&str; 7] = [
    "valgrind",
    "--tool=callgrind",
    "--trace-children=yes",
    "--toggle-collect=serverCron*",
    "--collect-atstart=yes",
    "--callgrind-out-file=profile",
    "-q",
];

/// How long nothing is done to see what the server does by itself.
const IDLE: Duration = Duration::from_secs(2);

/// A server whose instructions are counted.
pub(crate) struct Counted {
    served: Served,
}

/// What a piece of work took.
pub(crate) struct Spent {
    /// Instructions, and where they went.
    pub profile: Profile,
    /// Time by the clock.
    pub seconds: f64,
}

impl Counted {
    /// Starts a server, with the module or without it, told more by `told`. Under callgrind
    /// a command takes fifty times longer and the clock does not, so the server's own
    /// regular work is told to be as rare as can be.
    pub(crate) fn start(
        flavour: &Flavour,
        module: Option<&Path>,
        told: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        version().context("instructions are counted by valgrind, which is not there")?;
        let under = |builder: Builder| told(builder.under(&UNDER).arg("hz", 1));
        Ok(Self { served: Served::start(flavour, module, under)? })
    }

    /// The server, to speak to it.
    pub(crate) const fn served(&self) -> &Served {
        &self.served
    }

    /// Does the work and tells what the server spent on it.
    pub(crate) fn spent(&self, work: impl FnOnce() -> Result<()>) -> Result<Spent> {
        self.control("-z")?;
        let began = Instant::now();
        work()?;
        let seconds = began.elapsed().as_secs_f64();
        self.control("-d")?;
        Ok(Spent { profile: Profile::parse(&self.take_dump()?)?, seconds })
    }

    /// What the clock asks of the server beside its ticks (and those too where their
    /// function has no name) and beside the module, in instructions a second, counted while
    /// nothing else happens.
    pub(crate) fn idle(&self) -> Result<f64> {
        let spent = self.spent(|| {
            sleep(IDLE);
            Ok(())
        })?;
        let outside = spent.profile.instructions - spent.profile.entered.instructions;
        Ok(outside / spent.seconds)
    }

    fn control(&self, order: &str) -> Result<()> {
        let status = Command::new("callgrind_control")
            .arg(order)
            .arg(self.served.server().pid().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("callgrind_control, a part of valgrind")?;
        ensure!(status.success(), "callgrind_control {order}: {status}");
        Ok(())
    }

    /// The dump of this moment, which is taken away: the next one is then the only one.
    fn take_dump(&self) -> Result<String> {
        let mut dumps: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(self.served.server().dir())? {
            let path = entry?.path();
            let extension = path.extension().and_then(|number| number.to_str());
            if path.file_stem().is_some_and(|stem| stem == PROFILE)
                && extension.is_some_and(|number| number.parse::<u32>().is_ok())
            {
                dumps.push(path);
            }
        }
        let [dump] = &*dumps else { bail!("not one dump of callgrind but {dumps:?}") };
        let text = fs::read_to_string(dump)?;
        fs::remove_file(dump)?;
        Ok(text)
    }
}

/// The version of valgrind.
pub(crate) fn version() -> Result<String> {
    let said = Command::new("valgrind").arg("--version").output().context("valgrind")?;
    let said = String::from_utf8_lossy(&said.stdout);
    Ok(said.trim().trim_start_matches("valgrind-").to_owned())
}

impl Spent {
    /// Instructions without what the clock asked for in that time.
    pub(crate) fn without_clock(&self, idle: f64) -> f64 {
        self.profile.instructions - idle * self.seconds
    }
}

/// Calls from one side to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Calls {
    /// How often.
    pub times: f64,
    /// What they took, with all that they called in turn.
    pub instructions: f64,
}

impl Calls {
    fn add(&mut self, times: f64, instructions: f64) {
        self.times += times;
        self.instructions += instructions;
    }
}

/// A dump of callgrind, as far as it matters here: what lies in the module, and what
/// crosses the border between it and the server.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Profile {
    /// All of them.
    pub instructions: f64,
    /// Those of the module's own code.
    pub own: f64,
    /// Calls into the module.
    pub entered: Calls,
    /// Calls out of the module, by function.
    pub called: BTreeMap<String, Calls>,
}

/// A call whose cost is on the next line.
struct Call<'a> {
    into_module: bool,
    function: &'a str,
    times: f64,
}

impl Profile {
    /// Reads a dump. Its lines name where the code lies (`ob=`), then give its costs; a
    /// call names the callee (`cob=` where it lies elsewhere, `cfn=`), then how often
    /// (`calls=`), and the next line gives its cost.
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
            None if in_module => self.own += cost,
            Some(call) if in_module && !call.into_module => {
                let called = self.called.entry(call.function.to_owned()).or_default();
                called.add(call.times, cost);
            }
            Some(call) if !in_module && call.into_module => {
                self.entered.add(call.times, cost);
            }
            _ => {}
        }
    }
}

/// A name stands in full only where it comes first: `(12) gpulock_core::table::…`, later
/// `(12)`.
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
    let word = word.context("a number is missing in a dump of callgrind")?;
    word.trim().parse().with_context(|| format!("{word:?} in a dump of callgrind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a dump of Redis 7.0, shortened.
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
    fn tells_the_module_from_the_server() -> Result<()> {
        let memcmp = Calls { times: 6.0, instructions: 54.0 };
        let expected = Profile {
            instructions: 182_180.0,
            own: f64::from(339 + 36 + 48 + 357 + 63),
            entered: Calls { times: 12.0, instructions: 1_224.0 },
            called: BTreeMap::from([("__memcmp_avx2_movbe".to_owned(), memcmp)]),
        };
        assert_eq!(Profile::parse(DUMP)?, expected);
        Ok(())
    }

    #[test]
    fn refuses_what_is_no_dump() {
        assert!(Profile::parse("fn=(1) main\ncalls=often 3\n").is_err());
    }
}

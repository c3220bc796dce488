//! The servers under test, and the module they load: found through the environment, so
//! that one test suite serves every release of Redis and Valkey.

use std::env;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{Builder, Server};

/// One server program: a release of Redis or of Valkey.
#[derive(Clone, Debug)]
pub struct Flavour {
    name: String,
    program: PathBuf,
    valkey: bool,
    version: (u32, u32, u32),
}

impl Flavour {
    /// The flavour of a server program, which is asked for its version.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let said = match Command::new(&program).arg("--version").output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => panic!("{} does not start: {error}", program.display()),
        };
        // "Redis server v=7.0.15 sha=…", "Valkey server v=8.1.1 …"
        let number = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="))
            .unwrap_or_else(|| panic!("{}: no server: {said:?}", program.display()));
        let mut numbers = number.split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let valkey = said.starts_with("Valkey");
        let brand = if valkey { "valkey" } else { "redis" };
        Self {
            name: format!("{brand} {number}"),
            version: (next(), next(), next()),
            valkey,
            program,
        }
    }

    /// Brand and version, for messages: `valkey 8.1.1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program to start.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether it is a Valkey. Prefer asking for the ability itself where one can.
    pub const fn is_valkey(&self) -> bool {
        self.valkey
    }

    /// Whether `CLIENT UNBLOCK` can reach a client that waits in a module: not before
    /// Redis 7.4.
    pub fn can_unblock(&self) -> bool {
        self.is_valkey() || self.version() >= (7, 4, 0)
    }

    /// Major, minor and patch number, in its brand's own counting.
    pub const fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// A server of this flavour, to be told more and started.
    pub fn server(&self) -> Builder {
        Server::builder(self)
    }

    /// A server of this flavour with the module, as it is without settings.
    #[track_caller]
    pub fn start(&self) -> Server {
        self.server().start()
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The servers to test against: `SERVERS`, a list of programs, of folders that hold a
/// program `server`, or of folders of such folders, parted by spaces or colons; without
/// it the installed one. Relative paths count from the top of the repository.
pub fn servers() -> Vec<Flavour> {
    let listed = env::var("SERVERS").unwrap_or_default();
    let mut programs: Vec<PathBuf> = listed
        .split([' ', ':', '\n'])
        .filter(|word| !word.is_empty())
        .flat_map(|word| {
            let found = programs_at(word);
            assert!(!found.is_empty(), "SERVERS names {word:?}, where no server is");
            found
        })
        .collect();
    if programs.is_empty() {
        programs.push(installed_server());
    }
    programs.into_iter().map(Flavour::new).collect()
}

/// The server that `make` tests with.
fn installed_server() -> PathBuf {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| printed_by("tools/setup.sh", &["which"])).clone()
}

/// The path that a script of the repository prints.
fn printed_by(script: &str, args: &[&str]) -> PathBuf {
    let script = workspace().join(script);
    let output = Command::new(&script).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", script.display());
    let path = String::from_utf8(output.stdout).expect("a path in UTF-8");
    PathBuf::from(path.trim_end())
}

/// The server programs that one word of `SERVERS` means.
fn programs_at(word: &str) -> Vec<PathBuf> {
    if !word.contains('/') {
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path = env::split_paths(&path).map(|folder| folder.join(word));
        if let Some(program) = on_path.into_iter().find(|program| program.is_file()) {
            return vec![program];
        }
    }
    let path = workspace().join(word);
    if path.is_file() {
        return vec![path];
    }
    if path.join("server").is_file() {
        return vec![path.join("server")];
    }
    let mut below: Vec<PathBuf> = path
        .read_dir()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("server")))
        .filter(|program| program.is_file())
        .collect();
    below.sort();
    below
}

/// Runs a test on each of [`servers`], on all of them even when one fails, and says at
/// the end on which it did.
#[track_caller]
pub fn on_every_server(test: impl Fn(&Flavour)) {
    let failed: Vec<String> = servers()
        .into_iter()
        .filter(|flavour| {
            // Shown only when the test fails, ahead of what it says.
            eprintln!("---- on {flavour}");
            catch_unwind(AssertUnwindSafe(|| test(flavour))).is_err()
        })
        .map(|flavour| flavour.to_string())
        .collect();
    assert!(failed.is_empty(), "failed on {}", failed.join(", "));
}

/// The module under test: `GPULOCK_MODULE`, else the release build.
pub fn module() -> PathBuf {
    from_environment("GPULOCK_MODULE", "release/libgpulock.so")
}

/// The module built with `--features inject-panic,break-rules`: `GPULOCK_MODULE_PANIC`,
/// else the debug build.
pub fn module_that_panics() -> PathBuf {
    from_environment("GPULOCK_MODULE_PANIC", "debug/libgpulock.so")
}

/// The file that a variable names, else one of cargo's target folder.
fn from_environment(variable: &str, default: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    match env::var_os(variable) {
        Some(path) => workspace().join(path),
        None => BUILT.get_or_init(|| printed_by("tools/target.sh", &[])).join(default),
    }
}

/// The top of the repository.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit lies two below the top").to_owned()
}

//! The servers under test and the module that they load. The environment selects them, so
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
    /// The flavour of a server program, by the output of `--version`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let version = match Command::new(&program).arg("--version").output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => panic!("{} does not start: {error}", program.display()),
        };
        // "Redis server v=7.0.15 sha=…", "Valkey server v=8.1.1 …"
        let number = version
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="))
            .unwrap_or_else(|| {
                panic!("{} is not a server: {version:?}", program.display())
            });
        let mut numbers = number.split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let valkey = version.starts_with("Valkey");
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

    /// Whether it is Valkey. Where possible, test for a feature instead.
    pub const fn is_valkey(&self) -> bool {
        self.valkey
    }

    /// Whether `CLIENT UNBLOCK` unblocks a client that is blocked in a module: on Valkey, and
    /// on Redis since 7.4.
    pub fn can_unblock(&self) -> bool {
        self.is_valkey() || self.version() >= (7, 4, 0)
    }

    /// Whether `CLUSTER MIGRATESLOTS` exists: on Valkey since 9.0.
    pub fn migrates_whole_slots(&self) -> bool {
        self.is_valkey() && self.version() >= (9, 0, 0)
    }

    /// Major, minor and patch version of Redis or of Valkey.
    pub const fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// A server of this flavour, to be configured and started.
    pub fn server(&self) -> Builder {
        Server::builder(self)
    }

    /// Starts a server of this flavour with the module and default settings.
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

/// The servers to test against: `SERVERS` lists programs, folders with a program `server`, or
/// folders of such folders, separated by spaces, colons or line breaks. An existing path may contain
/// spaces, if colons or line breaks separate it from others. The default is the installed server. Relative paths start at the top of the repository.
pub fn servers() -> Vec<Flavour> {
    let listed = env::var("SERVERS").unwrap_or_default();
    let mut programs: Vec<PathBuf> = listed
        .split([':', '\n'])
        .flat_map(|part| {
            let exists = workspace().join(part).exists();
            if exists { vec![part] } else { part.split(' ').collect() }
        })
        .filter(|word| !word.is_empty())
        .flat_map(|word| {
            let found = programs_at(word);
            assert!(!found.is_empty(), "SERVERS: no server at {word:?}");
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
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", script.display());
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

/// Runs a test on each of [`servers`], also after a failure, and panics with the names of
/// those on which it failed.
#[track_caller]
pub fn on_every_server(test: impl Fn(&Flavour)) {
    let failed: Vec<String> = servers()
        .into_iter()
        .filter(|flavour| {
            // The test harness shows this, ahead of the panic, only when the test fails.
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

/// The top of the repository. It is found at run time: a target folder that was copied to
/// another checkout belongs to that checkout.
pub fn workspace() -> PathBuf {
    static TOP: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        // `cargo test` and `cargo run` set the variable; a program that is run directly is in
        // the target folder.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        [manifest, env::current_dir().ok(), env::current_exe().ok()]
            .into_iter()
            .flatten()
            .find_map(|path| {
                path.ancestors().find(|path| is_workspace(path)).map(Path::to_owned)
            })
            .expect("run this within the repository, or with CARGO_MANIFEST_DIR set")
    };
    TOP.get_or_init(find).clone()
}

fn is_workspace(folder: &Path) -> bool {
    folder.join("crates/testkit/Cargo.toml").is_file()
}

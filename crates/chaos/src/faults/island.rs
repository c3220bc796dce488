//! A network namespace with clients in it, joined to the server by one bridge that can be
//! taken away. It needs the right to make one, and the program `ip`.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::crew::Crew;

/// How many clients live there.
const SETTLERS: usize = 2;

/// A network namespace, which goes when this is dropped.
pub(crate) struct Island {
    name: String,
    /// The end of the bridge that is here.
    bridge: String,
    here: Ipv4Addr,
    crew: Option<Crew>,
}

impl Island {
    /// Makes one, still without clients.
    pub(crate) fn rise() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        // A network of four addresses for each, among those that nobody routes.
        let [.., high, low] = (number % (1 << 14) * 4).to_be_bytes();
        let address = |last| Ipv4Addr::new(10, 213, high, low | last);
        let (here, there) = (address(1), address(2));
        let island = Self {
            name: format!("gpulock-{number}"),
            bridge: format!("gl{number}a"),
            here,
            crew: None,
        };
        let (name, bridge, far) = (&island.name, &island.bridge, format!("gl{number}b"));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {bridge} type veth peer name {far} netns {name}"))?;
        ip(&format!("address add {here}/30 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        ip(&format!("-n {name} address add {there}/30 dev {far}"))?;
        ip(&format!("-n {name} link set {far} up"))?;
        Ok(island)
    }

    /// Where the server can be reached from there.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.here
    }

    /// Gives it its clients.
    pub(crate) fn people(&mut self, crew: Crew) -> Result<(), String> {
        self.crew = Some(crew.through(&["ip", "netns", "exec", &self.name]));
        self.settle()
    }

    /// Starts clients there.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.crew.as_mut().map_or(Ok(()), |crew| crew.start(SETTLERS))
    }

    /// Takes the bridge away, or brings it back.
    pub(crate) fn set_bridge(&self, how: &str) -> Result<(), String> {
        ip(&format!("link set {} {how}", self.bridge))
    }

    pub(crate) fn kill_all(&mut self) {
        if let Some(crew) = &mut self.crew {
            crew.kill_all();
        }
    }

    /// Lets all come to their end.
    pub(crate) fn finish(&mut self) {
        self.crew.iter_mut().for_each(Crew::finish);
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        self.kill_all();
        // The bridge goes with it. What could not be made cannot be taken away.
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

fn ip(words: &str) -> Result<(), String> {
    let done = Command::new("ip").args(words.split(' ')).output();
    let done = done.map_err(|error| format!("ip: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(format!("ip {words}: {said}"))
}

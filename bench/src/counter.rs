//! Counts what taking and giving back costs a server with the module, in instructions: the
//! same commands again and again, without what the clock asks of the server meanwhile.

use anyhow::Result;
use gpulock_testkit::Builder;
use redis::Connection;

use crate::callgrind::{Counted, Spent};
use crate::measure::Setup;
use crate::packed::Packed;

/// A new server with the module, which tells nobody of what happens (events off).
pub(crate) struct Counter {
    server: Counted,
    /// The only connection to it.
    pub link: Connection,
    idle: f64,
}

impl Counter {
    /// Starts the server.
    pub(crate) fn start(setup: &Setup) -> Result<Self> {
        let told = |server: Builder| server.arg("gpulock.events", "off");
        let server = Counted::start(&setup.flavour, Some(&setup.module), told)?;
        let link = server.served().connect()?;
        let idle = server.idle()?;
        Ok(Self { server, link, idle })
    }

    /// Instructions of one such pipeline, of so many of them.
    pub(crate) fn count(&mut self, pipeline: &Packed, times: usize) -> Result<f64> {
        let spent = self.spent(pipeline, times)?;
        Ok(spent.without_clock(self.idle) / times as f64)
    }

    /// What so many pipelines took, after a tenth as many in which the server gets ready.
    pub(crate) fn spent(&mut self, pipeline: &Packed, times: usize) -> Result<Spent> {
        pipeline.send_times(&mut self.link, times.div_ceil(10))?;
        self.server.spent(|| pipeline.send_times(&mut self.link, times))
    }
}

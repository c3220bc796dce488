//! Counts the instructions of command pipelines on a server with the module, without the
//! instructions that the server spends on timers.

use anyhow::Result;
use gpulock_testkit::Builder;
use redis::Connection;

use crate::callgrind::{CallgrindServer, Cost};
use crate::measure::Setup;
use crate::pipeline::Pipeline;

/// A new server with the module and events off.
pub(crate) struct Counter {
    server: CallgrindServer,
    /// The only connection to the server.
    pub connection: Connection,
    idle_rate: f64,
}

impl Counter {
    /// Starts the server.
    pub(crate) fn start(setup: &Setup) -> Result<Self> {
        let configure = |server: Builder| server.arg("gpulock.events", "off");
        let server =
            CallgrindServer::start(&setup.flavour, Some(&setup.module), configure)?;
        let connection = server.server().connect()?;
        let idle_rate = server.idle_rate()?;
        Ok(Self { server, connection, idle_rate })
    }

    /// Average instructions of a pipeline that is sent `times` times.
    pub(crate) fn count(&mut self, pipeline: &Pipeline, times: usize) -> Result<f64> {
        let cost = self.cost_of(pipeline, times)?;
        Ok(cost.without_timers(self.idle_rate) / times as f64)
    }

    /// The total cost of a pipeline that is sent `times` times, after a warm-up.
    pub(crate) fn cost_of(&mut self, pipeline: &Pipeline, times: usize) -> Result<Cost> {
        pipeline.send_times(&mut self.connection, times.div_ceil(10))?;
        self.server.cost_of(|| pipeline.send_times(&mut self.connection, times))
    }
}

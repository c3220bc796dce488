//! A headless Chromium, controlled over WebDriver (W3C) with chromedriver.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use gpulock_testkit::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;

use crate::TIMEOUT;
use crate::tools::{Process, found, port_in_log, skip};

/// A browser with one window; it ends with the test.
pub(crate) struct Browser {
    session: String,
    agent: Agent,
    #[expect(dead_code, reason = "ends with the browser")]
    driver: Process,
    folder: TempDir,
}

impl Browser {
    /// Prints a message and returns None if there is no chromedriver, or no matching browser.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let driver = found(test, "chromedriver")?;
        let folder = TempDir::with_prefix("gpulock-browser-").expect("making a folder");
        let log_file = folder.path().join("log");
        let log = File::create(&log_file).expect("making a file");
        let driver = Process::start(
            Command::new(driver)
                .arg("--port=0")
                .stdout(log.try_clone().expect("a second handle"))
                .stderr(log)
                .stdin(Stdio::null()),
        );
        let port = port_in_log(&log_file, "successfully on port ");
        let agent = Agent::config_builder().http_status_as_error(false).build();
        let mut browser = Self {
            session: format!("http://127.0.0.1:{port}"),
            agent: agent.into(),
            driver,
            folder,
        };
        wait_until(TIMEOUT, "chromedriver", || browser.is_ready());
        if let Err(reason) = browser.open_session() {
            skip(test, &reason);
            return None;
        }
        Some(browser)
    }

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The value of a script, which is a function body with `return`.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The visible text of the page.
    pub(crate) fn text(&self) -> String {
        self.string("return document.body.innerText")
    }

    /// The value of a script that returns a string.
    pub(crate) fn string(&self, script: &str) -> String {
        let value = self.run(script);
        value.as_str().unwrap_or_else(|| panic!("{script}: {value}")).to_owned()
    }

    /// Waits until `text` is visible.
    #[track_caller]
    pub(crate) fn wait_text(&self, text: &str) {
        wait_until(TIMEOUT, format!("{text:?} on the page"), || {
            self.text().contains(text)
        });
    }

    /// Waits until the value of a script is true.
    #[track_caller]
    pub(crate) fn wait_true(&self, script: &str) {
        wait_until(TIMEOUT, script, || self.run(script) == json!(true));
    }

    /// Sets the size of the screen, and the color scheme.
    pub(crate) fn screen(&self, width: u32, height: u32, colors: &str) {
        let devtools = |command: &str, params: Value| {
            self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": params }));
        };
        devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
        devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": colors }] }),
        );
    }

    /// Writes a screenshot to a PNG file.
    pub(crate) fn screenshot(&self, file: &Path) {
        let reply = self.agent.get(format!("{}/screenshot", self.session)).call();
        let encoded = self.call(reply);
        let mut decode = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(File::create(file).expect("making a file"))
            .spawn()
            .expect("starting base64");
        let mut input = decode.stdin.take().expect("it has a standard input");
        let encoded = encoded.as_str().expect("a screenshot in Base64");
        input.write_all(encoded.as_bytes()).expect("writing to base64");
        drop(input);
        assert!(decode.wait().expect("waiting for base64").success());
    }

    fn is_ready(&self) -> bool {
        let reply = self.agent.get(format!("{}/status", self.session)).call();
        let status = reply.ok().and_then(|reply| reply.into_body().read_json().ok());
        status.is_some_and(|status: Value| status["value"]["ready"] == json!(true))
    }

    /// Returns an error if there is no browser that this chromedriver supports.
    fn open_session(&mut self) -> Result<(), String> {
        let profile = format!("--user-data-dir={}", self.folder.path().display());
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &profile,
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": flags },
            "unhandledPromptBehavior": "ignore",
        }}});
        let reply =
            self.agent.post(format!("{}/session", self.session)).send_json(capabilities);
        let mut reply = reply.expect("chromedriver replies");
        let body: Value = reply.body_mut().read_json().expect("in JSON");
        let value = &body["value"];
        if let Some(session) = value["sessionId"].as_str() {
            self.session = format!("{}/session/{session}", self.session);
            return Ok(());
        }
        let reason = value["message"].as_str().unwrap_or_default();
        let lacks_browser = ["cannot find Chrome binary", "only supports Chrome version"];
        assert!(lacks_browser.iter().any(|lack| reason.contains(lack)), "{body}");
        Err(reason.replace('\n', ": "))
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call(self.agent.post(format!("{}{path}", self.session)).send_json(body))
    }

    #[track_caller]
    fn call(
        &self,
        reply: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Value {
        let mut reply = reply.expect("chromedriver replies");
        let body = reply.body_mut().with_config().limit(1 << 26);
        let mut body: Value = body.read_json().expect("in JSON");
        assert!(reply.status().is_success(), "chromedriver: {}", body["value"]);
        body["value"].take()
    }
}

impl Drop for Browser {
    /// The driver closes the browser with the session.
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
    }
}

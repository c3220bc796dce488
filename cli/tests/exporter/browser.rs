//! A headless Chromium, led over WebDriver: the standard of the W3C, which chromedriver
//! speaks. Only what these tests need of it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use gpulock_testkit::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;

use crate::PATIENCE;
use crate::tools::{Process, found, skip, told_port};

/// A browser with one window; it ends with the test.
pub(crate) struct Browser {
    session: String,
    agent: Agent,
    #[expect(dead_code, reason = "ends with the browser")]
    driver: Process,
    folder: TempDir,
}

impl Browser {
    /// None where there is no chromedriver, or no browser of its release: then `test` is left out, loudly.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let driver = found(test, "chromedriver")?;
        let folder = TempDir::with_prefix("gpulock-browser-").expect("making a folder");
        let said = folder.path().join("log");
        let log = File::create(&said).expect("making a file");
        let driver = Process::start(
            Command::new(driver)
                .arg("--port=0")
                .stdout(log.try_clone().expect("a second handle"))
                .stderr(log)
                .stdin(Stdio::null()),
        );
        let port = told_port(&said, "successfully on port ");
        let agent = Agent::config_builder().http_status_as_error(false).build();
        let mut browser = Self {
            session: format!("http://127.0.0.1:{port}"),
            agent: agent.into(),
            driver,
            folder,
        };
        wait_until(PATIENCE, "chromedriver", || browser.is_ready());
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

    /// The value of a script: the body of a function, with `return`.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The text that a reader sees of the page.
    pub(crate) fn text(&self) -> String {
        self.string("return document.body.innerText")
    }

    /// The value of a script that is a text.
    pub(crate) fn string(&self, script: &str) -> String {
        let value = self.run(script);
        value.as_str().unwrap_or_else(|| panic!("{script}: {value}")).to_owned()
    }

    /// Waits until the reader sees `text`.
    #[track_caller]
    pub(crate) fn wait_text(&self, text: &str) {
        wait_until(PATIENCE, format!("{text:?} on the page"), || {
            self.text().contains(text)
        });
    }

    /// Waits until the value of a script is true.
    #[track_caller]
    pub(crate) fn wait_true(&self, script: &str) {
        wait_until(PATIENCE, script, || self.run(script) == json!(true));
    }

    /// Makes the page as wide as a screen, and says whether it is dark there.
    pub(crate) fn screen(&self, width: u32, height: u32, colours: &str) {
        let of_chromium = |command: &str, params: Value| {
            self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": params }));
        };
        of_chromium(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
        of_chromium(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] }),
        );
    }

    /// Writes what is seen to a file, as PNG.
    pub(crate) fn picture(&self, file: &Path) {
        let answer = self.agent.get(format!("{}/screenshot", self.session)).call();
        let coded = self.call(answer);
        let mut decode = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(File::create(file).expect("making a file"))
            .spawn()
            .expect("starting base64");
        let mut input = decode.stdin.take().expect("it has a standard input");
        let coded = coded.as_str().expect("a picture in Base64");
        input.write_all(coded.as_bytes()).expect("writing to base64");
        drop(input);
        assert!(decode.wait().expect("waiting for base64").success());
    }

    fn is_ready(&self) -> bool {
        let answer = self.agent.get(format!("{}/status", self.session)).call();
        let status = answer.ok().and_then(|answer| answer.into_body().read_json().ok());
        status.is_some_and(|status: Value| status["value"]["ready"] == json!(true))
    }

    /// An error: there is no browser that this chromedriver can lead.
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
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": flags },
            "unhandledPromptBehavior": "ignore",
        }}});
        let answer =
            self.agent.post(format!("{}/session", self.session)).send_json(wanted);
        let mut answer = answer.expect("chromedriver answers");
        let body: Value = answer.body_mut().read_json().expect("in JSON");
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
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Value {
        let mut answer = answer.expect("chromedriver answers");
        let body = answer.body_mut().with_config().limit(1 << 26);
        let mut body: Value = body.read_json().expect("in JSON");
        assert!(answer.status().is_success(), "chromedriver: {}", body["value"]);
        body["value"].take()
    }
}

impl Drop for Browser {
    /// The driver ends the browser with the session.
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
    }
}

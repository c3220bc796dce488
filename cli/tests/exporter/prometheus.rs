//! A real Prometheus scrapes the exporter: it parses every series, whatever the keys, and loads
//! the rules of deploy/. All metrics used in the rules and the dashboard exist.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;

use crate::TIMEOUT;
use crate::exporter::{Exporter, instance};
use crate::series::names;
use crate::tools::{Process, found, port_in_log};
use gpulock_testkit::{Server, call, on_every_server, wait_until, workspace};
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;

/// A Prometheus that scrapes an exporter each second.
struct Prometheus {
    url: String,
    folder: TempDir,
    _process: Process,
}

impl Prometheus {
    fn of(exporter: &Exporter) -> Option<Self> {
        let program = found("a real Prometheus scrapes the exporter", "prometheus")?;
        let folder =
            TempDir::with_prefix("gpulock-prometheus-").expect("making a folder");
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [workspace().join("deploy/prometheus/gpulock.rules.yml")],
            "scrape_configs": [{
                "job_name": "gpulock",
                "honor_labels": true,
                "static_configs": [{ "targets": [exporter.address()] }],
            }],
        });
        let config_file = folder.path().join("prometheus.yml");
        fs::write(&config_file, config.to_string()).expect("writing a file");
        let log_file = folder.path().join("log");
        let log = File::create(&log_file).expect("making a file");
        let process = Process::start(
            Command::new(program)
                .arg(format!("--config.file={}", config_file.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    folder.path().join("data").display()
                ))
                .arg("--web.listen-address=127.0.0.1:0")
                .stdout(log.try_clone().expect("a second handle"))
                .stderr(log),
        );
        let port = port_in_log(&log_file, "msg=\"Listening on\" address=127.0.0.1:");
        let url = format!("http://127.0.0.1:{port}");
        Some(Self { url, folder, _process: process })
    }

    /// The reply of its API; None while it is not up.
    fn query(&self, path: &str, query: &str) -> Option<Value> {
        let agent: Agent =
            Agent::config_builder().http_status_as_error(false).build().into();
        let request =
            agent.get(format!("{}/api/v1/{path}", self.url)).query("query", query);
        let reply: Value = request.call().ok()?.into_body().read_json().ok()?;
        Some(reply["data"].clone())
    }

    /// Waits until the result of a query satisfies the condition.
    fn wait_query(&self, query: &str, condition: impl Fn(&[Value]) -> bool) {
        let log =
            || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let mut last = Value::Null;
        wait_until(TIMEOUT, format!("{query} in Prometheus"), || {
            last = self.query("query", query).unwrap_or_default();
            let found = last["result"].as_array().is_some_and(|series| condition(series));
            assert!(!log().contains("err=\"expected"), "{}", log());
            found
        });
    }
}

/// Every byte, in keys of one byte and in keys of the maximum length for per-lock counters.
fn odd_keys() -> Vec<Vec<u8>> {
    let all: Vec<u8> = (0..=255).collect();
    let mut keys: Vec<_> = all.iter().map(|byte| vec![*byte]).collect();
    let (low, high) = all.split_at(128);
    keys.extend([
        low.to_vec(),
        high.to_vec(),
        "\u{202e}\u{2028}\u{85}é \u{1f512}".into(),
        b"\"} 1 2\n# TYPE x y".into(),
    ]);
    keys
}

#[test]
fn prometheus_parses_every_key() {
    on_every_server(|flavour| {
        let servers = [flavour.start(), flavour.start()];
        let exporter = Exporter::of(&servers.each_ref());
        let Some(prometheus) = Prometheus::of(&exporter) else { return };

        let mut client = servers[0].client();
        let keys = odd_keys();
        for key in &keys {
            assert!(call!(client, "GPULOCK.ACQUIRE", key, "a", "EX", 600).int() > 0);
        }

        let both = |series: &[Value]| {
            let instances = |of: &Server| {
                series.iter().any(|series| series["metric"]["instance"] == instance(of))
            };
            series.len() == 2 && servers.iter().all(instances)
        };
        prometheus.wait_query("gpulock_up == 1", both);
        let held = keys.len().to_string();
        prometheus.wait_query("max(gpulock_locks_held)", |series| {
            series.first().is_some_and(|series| series["value"][1] == *held)
        });
        prometheus.wait_query("gpulock_lock_locks_held == 1", |series| {
            let keys: BTreeSet<_> =
                series.iter().map(|series| series["metric"]["key"].to_string()).collect();
            keys.len().to_string() == held
        });
        prometheus.wait_query("up", |series| {
            series.first().is_some_and(|series| series["value"][1] == "1")
        });
    });
}

#[test]
fn a_server_that_is_down_is_an_alert() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        let Some(prometheus) = Prometheus::of(&exporter) else { return };
        prometheus.wait_query("gpulock_up == 1", |series| series.len() == 1);
        server.kill9();
        let pending = "ALERTS{alertname=\"GpulockServerDown\"}";
        prometheus.wait_query(pending, |series| {
            series.first().is_some_and(|s| s["metric"]["instance"] == instance(&server))
        });
        server.restart();
    });
}

/// The metrics in a text: every word that begins with `gpulock_`.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("gpulock_"))
        .collect()
}

#[test]
fn all_metrics_of_rules_and_dashboard_are_exported() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        assert!(call!(client, "GPULOCK.ACQUIRE", "gpu:0", "a", "EX", 600).int() > 0);
        let text = Exporter::of(&[&server]).metrics();
        let exported: BTreeSet<_> = names(&text).collect();
        for file in ["prometheus/gpulock.rules.yml", "grafana/gpulock.json"] {
            let file = workspace().join("deploy").join(file);
            let text = fs::read_to_string(&file).expect("it is in deploy/");
            let used = metrics_in(&text);
            assert!(used.len() > 5, "{used:?}");
            let missing: Vec<_> = used.difference(&exported).collect();
            assert!(missing.is_empty(), "{}: {missing:?}", file.display());
        }
    });
}

#[test]
fn prometheus_accepts_each_query_of_the_dashboard() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        let Some(prometheus) = Prometheus::of(&exporter) else { return };
        prometheus.wait_query("gpulock_up == 1", |series| series.len() == 1);

        let file = workspace().join("deploy/grafana/gpulock.json");
        let dashboard = fs::read_to_string(file).expect("it is in deploy/");
        let dashboard: Value = serde_json::from_str(&dashboard).expect("it is JSON");
        let panels = dashboard["panels"].as_array().expect("it has panels");
        let targets = panels.iter().filter_map(|panel| panel["targets"].as_array());
        let mut queries = 0;
        for target in targets.flatten() {
            let query = target["expr"].as_str().expect("a query");
            let query =
                query.replace("$instance", ".*").replace("$__rate_interval", "1m");
            let reply = prometheus.query("query", &query).expect("it is up");
            assert_eq!(reply["resultType"], "vector", "{query}");
            queries += 1;
        }
        assert!(queries > 20, "{queries} queries");
    });
}

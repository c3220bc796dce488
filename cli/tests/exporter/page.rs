//! The status page in a real browser: it shows holders and queues, updates itself, reports that
//! its data is outdated, and shows data of clients as text.

use crate::browser::Browser;
use crate::exporter::{Exporter, MAX_VIEWERS, alone, command, first_line, instance, url};
use gpulock_testkit::{Client, Server, call, on_every_server, send, workspace};

/// The row of a lock, as a JavaScript expression.
fn row(key: &str) -> String {
    format!(
        "[...document.querySelectorAll('.locks tbody')]\
         .find((row) => row.querySelector('.key').textContent === '{key}')"
    )
}

/// The waiters of a lock, in queue order.
fn queue(browser: &Browser, key: &str) -> String {
    let row = row(key);
    browser.string(&format!(
        "return [...({row}?.querySelectorAll('li .owner') ?? [])]\
         .map((owner) => owner.textContent).join(' ')"
    ))
}

/// A client that waits as long as it is not dropped.
fn waiter(server: &Server, waiting: i64, call: &str) -> Client {
    let mut client = server.client();
    client.send_lines(&[call]);
    server.wait_blocked(waiting);
    client
}

#[test]
fn the_page_shows_holder_and_queue_and_updates_them() {
    let Some(browser) = Browser::start("the page follows the locks") else { return };
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        browser.open(exporter.url());
        browser.wait_text("No lock is held or waited for.");
        browser.wait_text("The log is empty.");

        let mut holder = server.client();
        assert!(call!(holder, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 600).int() > 0);
        let _tts = waiter(&server, 1, "GPULOCK.ACQUIRE gpu:0 tts BLOCK 0");
        let any = "GPULOCK.ACQUIREANY 2 gpu:0 gpu:1 eval COUNT 2 BLOCK 0";
        let _eval = waiter(&server, 2, any);
        browser.wait_text("asr");
        browser.wait_text("wants 2 of 2");
        let is_held_by = |owner| {
            format!(
                "return {}.querySelector('.owner').textContent === '{owner}'",
                row("gpu:0")
            )
        };
        browser.wait_true(&is_held_by("asr"));
        assert_eq!(queue(&browser, "gpu:0"), "tts eval");
        assert_eq!(queue(&browser, "gpu:1"), "eval");
        browser.wait_true(&format!(
            "const width = parseFloat({}.querySelector('.left').style.width);\
             return width > 50 && width <= 100",
            row("gpu:0")
        ));

        assert_eq!(call!(holder, "GPULOCK.RELEASE", "gpu:0", "asr"), 1);
        browser.wait_true(&is_held_by("tts"));
        assert_eq!(queue(&browser, "gpu:0"), "eval");

        assert_eq!(call!(holder, "GPULOCK.RELEASE", "gpu:0", "asr"), 0);
        browser.wait_text("release rejected: not the holder");
        browser.wait_true("return document.title === '1 held – GPU locks'");
    });
}

#[test]
fn a_gpu_with_slots_is_one_row() {
    let Some(browser) = Browser::start("the page shows a GPU") else { return };
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        let mut holder = server.client();
        for call in [
            "GPULOCK.ACQUIREANY 2 {p:h}:GPU-a:0 {p:h}:GPU-a:1 asr COUNT 2 EX 600",
            "GPULOCK.ACQUIRE {p:h}:GPU-a:2 tts EX 600",
            "GPULOCK.ACQUIRE {p:h}:GPU-a other EX 600",
        ] {
            assert!(!holder.line(call).is_err());
        }
        let any = "GPULOCK.ACQUIREANY 2 {p:h}:GPU-a:0 {p:h}:GPU-a:2 llm BLOCK 0";
        let _llm = waiter(&server, 1, any);
        browser.open(exporter.url());
        browser.wait_text("llm");
        let text = |name: &str| {
            format!(
                "[...document.querySelectorAll('.locks .{name}')].map((e) => e.textContent)"
            )
        };
        browser.wait_true(&format!(
            "return {}.join() === '{{p:h}}:GPU-a,{{p:h}}:GPU-a' && \
             {}.join() === '3 slots,' && \
             [...document.querySelectorAll('.locks td > .owner')]\
             .map((e) => e.textContent).join('; ') === 'asr (2), tts (1); other'",
            text("key"),
            text("slots")
        ));
        assert_eq!(
            browser
                .string(&format!("return {}.join()", text("waited")))
                .split(',')
                .count(),
            1
        );

        holder.line("GPULOCK.RELEASE {p:h}:GPU-a:2 tts");
        holder.line("GPULOCK.RELEASE {p:h}:GPU-a:1 asr");
        browser.wait_true(&format!("return {}[0] === '2 slots'", text("slots")));
    });
}

#[test]
fn the_page_reports_a_server_that_is_down_or_back() {
    let Some(browser) = Browser::start("the page shows a server's death") else { return };
    on_every_server(|flavour| {
        let (mut server, well) = (flavour.start(), flavour.start());
        let exporter = Exporter::with_short_timeout(&[&server, &well]);
        let mut holder = server.client();
        assert!(call!(holder, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 600).int() > 0);
        browser.open(exporter.url());
        browser.wait_text("asr");
        let badge = |of: &Server, text: &str| {
            browser.wait_true(&format!(
                "return [...document.querySelectorAll('.server')].some((server) => \
                 server.querySelector('.instance').textContent === '{}' && \
                 server.querySelector('.badge').textContent === '{text}')",
                instance(of)
            ));
        };
        badge(&server, "up");

        server.freeze();
        browser.wait_text("no reply within 3 s");
        badge(&server, "down");
        badge(&well, "up");
        // The last known state is shown as outdated.
        browser.wait_true(
            "return document.querySelector('.stale .owner').textContent === 'asr'",
        );
        server.thaw();
        badge(&server, "up");
        browser.wait_true("return !document.querySelector('.stale')");

        server.kill9();
        browser.wait_text("Failed to read the locks of this server");
        badge(&server, "down");
        browser.wait_true("return document.title.startsWith('1 down, ')");
        server.restart();
        badge(&server, "up");
        browser.wait_true("return document.querySelector('.error').hidden");
    });
}

#[test]
fn the_page_reports_a_missing_module_and_an_eviction_policy() {
    let Some(browser) = Browser::start("the page reports bad settings") else { return };
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        let exporter = Exporter::of(&[&server]);
        browser.open(exporter.url());
        browser.wait_text("the module gpulock is not loaded");

        let server = flavour.server().arg("maxmemory-policy", "allkeys-lru").start();
        let exporter = Exporter::of(&[&server]);
        browser.open(exporter.url());
        browser
            .wait_text("The maxmemory-policy of this server allows it to evict locks.");
    });
}

#[test]
fn the_page_reconnects_to_a_restarted_exporter() {
    let Some(browser) = Browser::start("the page shows the exporter's death") else {
        return;
    };
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        let at = exporter.address().to_owned();
        browser.open(exporter.url());
        let live = || {
            let text = |of: &str| format!("document.querySelector('{of}')?.textContent");
            let (connection, badge) = (text("#connection"), text(".badge"));
            browser.wait_true(&format!(
                "return {connection} === 'live' && {badge} === 'up'"
            ));
        };
        live();

        drop(exporter);
        browser.wait_text("Connection to the exporter lost");
        browser.wait_text("no update for");

        let mut again = command();
        again.args(["--listen", &at, "--server", &url(&server)]);
        let _exporter = Exporter::start(&mut again);
        live();
    });
}

#[test]
fn the_page_connects_when_another_viewer_leaves() {
    let Some(browser) = Browser::start("one page too many") else { return };
    let exporter = alone();
    let view = || exporter.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut viewers: Vec<_> = (0..MAX_VIEWERS).map(|_| view()).collect();
    for viewer in &mut viewers {
        assert_eq!(first_line(viewer), "HTTP/1.1 200 OK");
    }
    browser.open(exporter.url());
    browser.wait_text("No connection to the exporter. Reconnecting");
    viewers.pop();
    browser
        .wait_true("return document.querySelector('#connection').textContent === 'live'");
}

#[test]
fn data_of_clients_is_shown_as_text() {
    let Some(browser) = Browser::start("owners stay text") else { return };
    on_every_server(|flavour| {
        let server = flavour.start();
        let script = "<script>document.title='gone'</script>";
        let image = "<img src=x onerror=\"document.title='gone'\">";
        let mut client = server.client();
        assert!(call!(client, "GPULOCK.ACQUIRE", script, image, "EX", 600).int() > 0);
        assert_eq!(
            call!(client, "GPULOCK.RELEASE", script, image, "REASON", "<b>x</b>"),
            1
        );
        assert!(call!(client, "GPULOCK.ACQUIRE", script, image, "EX", 600).int() > 0);
        let reason = "<svg onload=alert(1)>";
        assert_eq!(call!(client, "GPULOCK.RELEASE", script, script, "REASON", reason), 0);
        let mut waiter = server.client();
        send!(
            waiter,
            "GPULOCK.ACQUIRE",
            script,
            "<i>waiter</i>\x1b[2J\u{202e}",
            "BLOCK",
            0
        );
        server.wait_blocked(1);

        let exporter = Exporter::of(&[&server]);
        browser.open(exporter.url());
        browser.wait_text(script);
        browser.wait_text(image);
        browser.wait_text(reason);
        browser.wait_text("<i>waiter</i>\\u{1b}[2J");
        let made = "return document.querySelectorAll('main script, main img, main svg, main i').length";
        assert_eq!(browser.run(made), 0);
        assert_eq!(browser.string("return document.title"), "1 held – GPU locks");
    });
}

/// The page fits the screen of a phone, and every text has a contrast of at least 4.5 to 1
/// (WCAG 2, AA), light and dark.
#[test]
fn the_page_is_readable_on_a_phone_and_in_dark_mode() {
    let Some(browser) = Browser::start("the page on a phone") else { return };
    on_every_server(|flavour| {
        let server = flavour.start();
        let long = "x".repeat(200);
        let _clients = busy(&server);
        assert!(call!(server.client(), "GPULOCK.ACQUIRE", long, long).int() > 0);
        let exporter = Exporter::of(&[&server]);
        for colors in ["light", "dark"] {
            browser.screen(360, 740, colors);
            browser.open(exporter.url());
            browser.wait_text(&long);
            let page = "document.documentElement";
            let fits = format!("return {page}.scrollWidth <= {page}.clientWidth");
            assert_eq!(browser.run(&fits), true, "{colors}");
            let low_contrast = browser.string(include_str!("contrast.js"));
            assert_eq!(low_contrast, "", "{colors}");
        }
    });
}

/// Jobs on two GPUs, until the clients are dropped.
fn busy(server: &Server) -> Vec<Client> {
    let mut client = server.client();
    let calls = [
        "GPULOCK.ACQUIRE {node7}:gpu:1 nightly-5c01 PX 1",
        "GPULOCK.ACQUIRE {node7}:gpu:0 asr-7f3a EX 600",
        "GPULOCK.RELEASE {node7}:gpu:0 tts-19c2",
    ];
    for call in calls {
        client.line(call);
    }
    let expired = || server.client().info("gpulock")["gpulock_expired"] == "1";
    gpulock_testkit::wait_until(crate::TIMEOUT, "the end of a lease", expired);
    client.line("GPULOCK.ACQUIRE {node7}:gpu:1 train-big-04d2 EX 60");
    let waiting = [
        "GPULOCK.ACQUIRE {node7}:gpu:0 tts-19c2 BLOCK 0",
        "GPULOCK.ACQUIREANY 2 {node7}:gpu:0 {node7}:gpu:1 eval-88e1 COUNT 2 BLOCK 0",
    ];
    let waiters =
        waiting.iter().zip(1..).map(|(call, count)| waiter(server, count, call));
    waiters.chain([client]).collect()
}

#[test]
#[ignore = "not a test: creates docs/pictures/page.png and page-phone.png"]
fn pictures() {
    let browser = Browser::start("pictures").expect("a browser");
    let folder = workspace().join("docs/pictures");
    std::fs::create_dir_all(&folder).expect("making a folder");
    let flavour = gpulock_testkit::servers().remove(0);
    let server = flavour.server().start();
    let _clients = busy(&server);
    let exporter = Exporter::of(&[&server]);
    for (name, width, height, colors) in
        [("page.png", 1100, 500, "light"), ("page-phone.png", 400, 980, "dark")]
    {
        browser.screen(width, height, colors);
        browser.open(exporter.url());
        browser.wait_text("eval-88e1");
        // Wait for the animation of the bars.
        browser.wait_true(
            "return Number.parseInt(document.querySelector('.held').textContent) >= 8",
        );
        browser.run("document.documentElement.style.scrollbarWidth = 'none'");
        browser.screenshot(&folder.join(name));
    }
}

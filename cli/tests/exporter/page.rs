//! The status page in a real browser: it shows who holds and who waits, follows what
//! happens, says plainly when it knows nothing any more, and takes text for text.

use crate::browser::Browser;
use crate::exporter::{Exporter, VIEWERS, alone, command, first_line, instance, url};
use gpulock_testkit::{Client, Server, call, on_every_server, send, workspace};

/// The holder's row of a lock, as a reader sees it.
fn row(key: &str) -> String {
    format!(
        "[...document.querySelectorAll('.locks tbody')]\
         .find((row) => row.querySelector('.key').textContent === '{key}')"
    )
}

/// Who waits for a lock, first to last.
fn line(browser: &Browser, key: &str) -> String {
    let row = row(key);
    browser.string(&format!(
        "return [...({row}?.querySelectorAll('li .owner') ?? [])]\
         .map((owner) => owner.textContent).join(' ')"
    ))
}

/// A client that waits; the line keeps its place as long as it is there.
fn waits(server: &Server, waiting: i64, call: &str) -> Client {
    let mut client = server.client();
    client.send_lines(&[call]);
    server.wait_blocked(waiting);
    client
}

#[test]
fn shows_holder_and_line_and_follows_them() {
    let Some(browser) = Browser::start("the page follows the locks") else { return };
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        browser.open(exporter.url());
        browser.wait_text("No lock is held or waited for.");
        browser.wait_text("Nothing, since the server started");

        let mut holder = server.client();
        assert!(call!(holder, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 600).int() > 0);
        let _tts = waits(&server, 1, "GPULOCK.ACQUIRE gpu:0 tts BLOCK 0");
        let any = "GPULOCK.ACQUIREANY 2 gpu:0 gpu:1 eval COUNT 2 BLOCK 0";
        let _eval = waits(&server, 2, any);
        browser.wait_text("asr");
        browser.wait_text("wants 2 of 2");
        let ends_with = |owner| {
            format!(
                "return {}.querySelector('.owner').textContent === '{owner}'",
                row("gpu:0")
            )
        };
        browser.wait_true(&ends_with("asr"));
        assert_eq!(line(&browser, "gpu:0"), "tts eval");
        assert_eq!(line(&browser, "gpu:1"), "eval");
        browser.wait_true(&format!(
            "const width = parseFloat({}.querySelector('.left').style.width);\
             return width > 50 && width <= 100",
            row("gpu:0")
        ));

        assert_eq!(call!(holder, "GPULOCK.RELEASE", "gpu:0", "asr"), 1);
        browser.wait_true(&ends_with("tts"));
        assert_eq!(line(&browser, "gpu:0"), "eval");

        assert_eq!(call!(holder, "GPULOCK.RELEASE", "gpu:0", "asr"), 0);
        browser.wait_text("release refused: not the holder");
        browser.wait_true("return document.title === '1 held – GPU locks'");
    });
}

#[test]
fn says_plainly_that_a_server_is_down_and_when_it_is_back() {
    let Some(browser) = Browser::start("the page shows a server's death") else { return };
    on_every_server(|flavour| {
        let (mut server, well) = (flavour.start(), flavour.start());
        let exporter = Exporter::impatient(&[&server, &well]);
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
        browser.wait_text("no answer within 3 s");
        badge(&server, "down");
        badge(&well, "up");
        // What was known is there, and does not look like the present.
        browser.wait_true(
            "return document.querySelector('.stale .owner').textContent === 'asr'",
        );
        server.thaw();
        badge(&server, "up");
        browser.wait_true("return !document.querySelector('.stale')");

        server.kill9();
        browser.wait_text("No locks can be read from this server");
        badge(&server, "down");
        browser.wait_true("return document.title.startsWith('1 down, ')");
        server.restart();
        badge(&server, "up");
        browser.wait_true("return document.querySelector('.trouble').hidden");
    });
}

#[test]
fn says_plainly_that_the_module_is_missing_or_may_evict() {
    let Some(browser) = Browser::start("the page tells of bad settings") else { return };
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        let exporter = Exporter::of(&[&server]);
        browser.open(exporter.url());
        browser.wait_text("The module gpulock is not loaded in it");

        let server = flavour.server().arg("maxmemory-policy", "allkeys-lru").start();
        let exporter = Exporter::of(&[&server]);
        browser.open(exporter.url());
        browser.wait_text("maxmemory-policy lets this server evict locks");
    });
}

#[test]
fn says_plainly_that_the_exporter_is_gone_and_comes_back_with_it() {
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
        browser.wait_text("not heard of for");

        let mut again = command();
        again.args(["--listen", &at, "--server", &url(&server)]);
        let _exporter = Exporter::start(&mut again);
        live();
    });
}

#[test]
fn comes_to_its_turn_when_too_many_look() {
    let Some(browser) = Browser::start("one page too many") else { return };
    let exporter = alone();
    let look = || exporter.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut viewers: Vec<_> = (0..VIEWERS).map(|_| look()).collect();
    for viewer in &mut viewers {
        assert_eq!(first_line(viewer), "HTTP/1.1 200 OK");
    }
    browser.open(exporter.url());
    browser.wait_text("No connection to the exporter. Trying again.");
    viewers.pop();
    browser
        .wait_true("return document.querySelector('#connection').textContent === 'live'");
}

#[test]
fn what_clients_choose_stays_text() {
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

/// Nothing sticks out on a phone, and every text stands out from its ground by 4.5 to 1
/// (WCAG 2, AA), light and dark.
#[test]
fn is_readable_on_a_phone_and_in_the_dark() {
    let Some(browser) = Browser::start("the page on a phone") else { return };
    on_every_server(|flavour| {
        let server = flavour.start();
        let long = "x".repeat(200);
        let _some = busy(&server);
        assert!(call!(server.client(), "GPULOCK.ACQUIRE", long, long).int() > 0);
        let exporter = Exporter::of(&[&server]);
        for colours in ["light", "dark"] {
            browser.screen(360, 740, colours);
            browser.open(exporter.url());
            browser.wait_text(&long);
            let page = "document.documentElement";
            let fits = format!("return {page}.scrollWidth <= {page}.clientWidth");
            assert_eq!(browser.run(&fits), true, "{colours}");
            let faint = browser.string(include_str!("faint.js"));
            assert_eq!(faint, "", "{colours}");
        }
    });
}

/// Some jobs on two GPUs, as long as the clients are there.
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
    gpulock_testkit::wait_until(crate::PATIENCE, "a lease's end", expired);
    client.line("GPULOCK.ACQUIRE {node7}:gpu:1 train-big-04d2 EX 60");
    let waiting = [
        "GPULOCK.ACQUIRE {node7}:gpu:0 tts-19c2 BLOCK 0",
        "GPULOCK.ACQUIREANY 2 {node7}:gpu:0 {node7}:gpu:1 eval-88e1 COUNT 2 BLOCK 0",
    ];
    let waiters = waiting.iter().zip(1..).map(|(call, place)| waits(server, place, call));
    waiters.chain([client]).collect()
}

#[test]
#[ignore = "no test: draws docs/pictures/page.png and page-phone.png"]
fn pictures() {
    let browser = Browser::start("pictures").expect("a browser");
    let folder = workspace().join("docs/pictures");
    std::fs::create_dir_all(&folder).expect("making a folder");
    let flavour = gpulock_testkit::servers().remove(0);
    let server = flavour.server().start();
    let _some = busy(&server);
    let exporter = Exporter::of(&[&server]);
    for (name, width, height, colours) in
        [("page.png", 1100, 500, "light"), ("page-phone.png", 400, 980, "dark")]
    {
        browser.screen(width, height, colours);
        browser.open(exporter.url());
        browser.wait_text("eval-88e1");
        // Long enough for the bars to be where they go.
        browser.wait_true(
            "return Number.parseInt(document.querySelector('.held').textContent) >= 8",
        );
        browser.run("document.documentElement.style.scrollbarWidth = 'none'");
        browser.picture(&folder.join(name));
    }
}

//! The page of `eagain lab run … --format html`, in a browser: what can be clicked, typed and seen.
//!
//! With EAGAIN_SCREENSHOTS=DIRECTORY pictures of it are left there, to be looked at.
#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine as _;
use common::program;
use serde_json::{Value, json};

/// For an answer of the browser, which may have to start first, on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

const WIDE: (u32, u32) = (1280, 900);
const NARROW: (u32, u32) = (400, 800);

/// Chromium, by its DevTools protocol: a JSON object and a zero byte for each message, through a pair of pipes.
struct Browser {
    process: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// Messages that are no answer: requests to the network, what the console says.
    events: Vec<Value>,
    directory: PathBuf,
}

impl Browser {
    /// With this page open, or nothing where there is no Chromium.
    fn show(name: &str, page: &[u8], (width, height): (u32, u32), scheme: &str) -> Option<Self> {
        let mut browser = Self::start(name)?;
        let path = browser.directory.join("page.html");
        std::fs::write(&path, page).expect("a directory of ours");
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach)["sessionId"].as_str().map(str::to_owned);
        browser.session = session;
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        browser.call("Emulation.setEmulatedMedia", &json!({"features": feature}));
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", &size);
        browser.call("Page.navigate", &json!({"url": format!("file://{}", path.display())}));
        browser.until("document.readyState == 'complete' && !document.querySelector('form').hidden");
        Some(browser)
    }

    fn start(name: &str) -> Option<Self> {
        let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| is_there(name));
        let Some(chromium) = found else {
            println!("not tested: the page in a browser, for want of chromium");
            return None;
        };
        let directory = std::env::temp_dir().join(format!("eagain-page-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a new directory");
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh", chromium])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND"])
            .arg(format!("--user-data-dir={}", directory.join("profile").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let (to, stdout) = (process.stdin.take().expect("a pipe"), process.stdout.take().expect("a pipe"));
        let (tell, from) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(stdout).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { return };
                let _ = tell.send(message);
            }
        });
        Some(Self { process, to, from, session: None, number: 0, events: Vec::new(), directory })
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.from.recv_timeout(SOON).unwrap_or_else(|_| panic!("no answer to {method}"));
            if answer["id"] != self.number {
                self.events.push(answer);
                continue;
            }
            assert!(answer.get("error").is_none(), "{method}: {answer}");
            return answer["result"].clone();
        }
    }

    /// The value of an expression.
    #[track_caller]
    fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &params);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    #[track_caller]
    fn until(&mut self, condition: &str) {
        let deadline = std::time::Instant::now() + SOON;
        while self.eval(condition) != true {
            assert!(std::time::Instant::now() < deadline, "it never came to be: {condition}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A key, as the keyboard sends it.
    #[track_caller]
    fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "Tab" => 9,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => key.to_ascii_uppercase().as_bytes()[0].into(),
        };
        let text = if key == "Enter" { "\r" } else { key };
        let mut down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if text.len() == 1 {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", &down);
        self.call("Input.dispatchKeyEvent", &json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}));
    }

    /// A click in the middle of the first element that fits.
    #[track_caller]
    fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let at = self.eval(&middle);
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", &params);
        }
    }

    /// The ids of the rules that are shown.
    fn shown(&mut self) -> Vec<String> {
        let ids = "[...document.querySelectorAll('details')].filter(d => d.checkVisibility()).map(d => d.id)";
        serde_json::from_value(self.eval(ids)).expect("a list of ids")
    }

    /// The id of the rule that has the focus; the name of the element, if it is in none.
    fn focus(&mut self) -> String {
        let e = "document.activeElement";
        let id = self.eval(&format!("{e}.closest('details')?.id || {e}.name || {e}.tagName"));
        id.as_str().expect("a name").to_owned()
    }

    fn picture(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("EAGAIN_SCREENSHOTS") else { return };
        let picture = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let picture = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().expect("text"));
        let path = PathBuf::from(directory).join(format!("{name}.png"));
        std::fs::write(path, picture.expect("base64")).expect("a directory for pictures");
    }

    /// It has asked nothing of the network, and the console is empty.
    #[track_caller]
    fn asked_and_said_nothing(mut self) {
        self.eval("1");
        for event in std::mem::take(&mut self.events) {
            let method = event["method"].as_str().unwrap_or("");
            let url = event["params"]["request"]["url"].as_str().unwrap_or("");
            let is_ours = url.starts_with("file://") && url.contains("/page.html") || url == "data:,";
            assert!(method != "Network.requestWillBeSent" || is_ours, "a request: {url}");
            let complaints = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
            assert!(!complaints.contains(&method), "{event}");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its children itself, unless it is killed.
        let message = json!({"id": 0, "method": "Browser.close"});
        let _ = self.to.write_all(format!("{message}\0").as_bytes());
        while self.from.recv_timeout(SOON).is_ok() {}
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// The page of these words, where no more than 1,000 files may be open: some experiments cannot be made then.
fn page(words: &str) -> Vec<u8> {
    let script = format!("ulimit -n 1000; exec \"$0\" lab run {words} --format html");
    let output = Command::new("sh").arg("-c").arg(script).arg(program()).stdin(Stdio::null()).output();
    output.expect("sh starts").stdout
}

#[test]
fn rules_are_chosen_by_group_verdict_and_words() {
    let page = page("trigger nesting select_poll");
    let Some(mut browser) = Browser::show("choice", &page, WIDE, "light") else { return };
    let all = browser.shown();
    assert!(all.len() > 30, "{all:?}");
    assert_eq!(browser.eval("document.querySelector('output').value"), format!("{0} of {0}", all.len()));

    browser.eval("document.querySelector('select').focus()");
    browser.press("ArrowDown");
    browser.press("ArrowDown");
    browser.until("document.querySelector('select').value == 'nesting'");
    let nesting = browser.shown();
    assert!(!nesting.is_empty() && nesting.len() < all.len(), "{nesting:?}");
    assert_eq!(browser.eval("document.querySelectorAll('section:not([hidden])').length"), 1);
    browser.press("Escape");

    browser.click("input[value=not-tested] + span");
    assert_eq!(browser.shown(), Vec::<String>::new(), "all of nesting can be tested");
    assert_eq!(browser.eval("document.getElementById('none').checkVisibility()"), true);
    browser.eval("document.querySelector('select').focus()");
    browser.press("ArrowUp");
    browser.press("ArrowUp");
    browser.until("document.querySelector('select').value == ''");
    let untested = browser.shown();
    assert!(untested.contains(&"poll-has-no-1024".to_owned()), "{untested:?}");

    browser.click("input[value=holds] + span");
    assert_eq!(browser.shown().len(), all.len() - untested.len());
    browser.press("/");
    for letter in ["n", "e", "s", "t", "e", "d"] {
        browser.press(letter);
    }
    let found = browser.shown();
    assert!(!found.is_empty() && found.len() < nesting.len() + 5 && found.iter().any(|id| id.contains("nested")));
    browser.asked_and_said_nothing();
}

#[test]
fn the_keyboard_reaches_everything() {
    let Some(mut browser) = Browser::show("keys", &page("trigger"), NARROW, "light") else { return };
    let ids = browser.shown();
    browser.press("j");
    assert_eq!(browser.focus(), ids[0]);
    browser.press("j");
    browser.press("j");
    browser.press("k");
    assert_eq!(browser.focus(), ids[1]);
    let is_open = format!("document.getElementById({:?}).open", ids[1]);
    assert_eq!(browser.eval(&is_open), false);
    browser.press("Enter");
    assert_eq!(browser.eval(&is_open), true);
    // The next stop is the timeline of the open rule, which the arrows move.
    browser.press("Tab");
    assert_eq!(browser.eval("document.activeElement.className"), "time");
    browser.press("ArrowRight");
    browser.until("document.activeElement.scrollLeft > 0");
    browser.press("Tab");
    assert_eq!(browser.focus(), ids[2]);

    browser.press("/");
    assert_eq!(browser.focus(), "words");
    browser.press("j");
    assert_eq!(browser.eval("document.activeElement.value"), "j", "a letter in a field is a letter");
    browser.press("Escape");
    assert_eq!(browser.focus(), "BODY");
    browser.click("button");
    assert_eq!(browser.eval("document.querySelectorAll('details:not([hidden]):not([open])').length"), 0);
    assert_eq!(browser.eval("document.querySelector('button').textContent"), "Close all");
    browser.asked_and_said_nothing();
}

/// The contrast of each text with what is behind it, the worst first, as WCAG 2 computes it.
const CONTRASTS: &str = r"(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c[3] == 255) return c;
    }
    return [255, 255, 255];
  };
  const seen = new Map();
  for (const e of document.querySelectorAll('body *')) {
    const words = [...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim());
    if (!words || !e.checkVisibility()) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen.set(e.tagName + '.' + e.className, contrast);
  }
  return [...seen].sort((a, b) => a[1] - b[1]);
})()";

#[test]
fn it_is_light_or_dark_as_the_reader_likes_and_every_text_can_be_read() {
    let page = page("et-partial-read-stalls et-wakes-one-thread poll-has-no-1024 --mutated");
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        let Some(mut browser) = Browser::show(scheme, &page, WIDE, scheme) else { return };
        browser.eval("for (const card of document.querySelectorAll('details')) card.open = true");
        grounds.push(browser.eval("getComputedStyle(document.body).backgroundColor"));
        let contrasts = browser.eval(CONTRASTS);
        let worst = contrasts[0][1].as_f64().expect("a number");
        assert!(worst >= 4.5, "{scheme}: {contrasts}");
        browser.picture(&format!("{scheme}-spoilt"));
        browser.asked_and_said_nothing();
    }
    assert_eq!(grounds, ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]);
}

/// Texts that are cut off, boxes of a timeline that overlap, and whether the page is wider than its window.
const FAULTS: &str = r"(() => {
  const faults = [];
  if (document.documentElement.scrollWidth > innerWidth) faults.push('wider than the window');
  for (const card of document.querySelectorAll('details[open]')) {
    const boxes = [...card.querySelectorAll('.call, .queue, .tick')];
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth + 1) faults.push(card.id + ' cuts ' + box.textContent);
    }
    const rects = boxes.map((box) => box.getBoundingClientRect());
    rects.forEach((a, i) => rects.slice(0, i).forEach((b, j) => {
      const apart = a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
      if (!apart) faults.push(`${card.id}: ${boxes[i].textContent} on ${boxes[j].textContent}`);
    }));
  }
  return faults;
})()";

#[test]
fn nothing_is_cut_off_and_nothing_overlaps_on_a_wide_or_a_narrow_screen() {
    let page = page("trigger wakeups lifetime phantom-connections");
    for (name, size, scheme) in [("wide", WIDE, "light"), ("narrow", NARROW, "dark")] {
        let Some(mut browser) = Browser::show(name, &page, size, scheme) else { return };
        browser.picture(&format!("{name}-list"));
        browser.eval("for (const card of document.querySelectorAll('details')) card.open = true");
        assert_eq!(browser.eval(FAULTS), json!([]), "{name}");
        for id in ["et-partial-read-stalls", "exclusive-is-not-fair", "lt-wakes-more-than-one", "phantom-connections"] {
            browser.eval(&format!("location.hash = {id:?}"));
            browser.until(&format!("document.getElementById({id:?}).contains(document.activeElement)"));
            browser.picture(&format!("{name}-{id}"));
        }
        browser.asked_and_said_nothing();
    }
}

#[test]
fn on_paper_every_call_is_there_and_nothing_is_cut_off() {
    let page = page("et-partial-read-stalls et-same-fd-two-threads");
    let Some(mut browser) = Browser::show("paper", &page, NARROW, "light") else { return };
    browser.call("Emulation.setEmulatedMedia", &json!({"media": "print"}));
    browser.eval("document.querySelectorAll('details').forEach((card) => { card.open = true; })");
    let width = "document.documentElement.clientWidth";
    let inside = format!("((one) => one.clientWidth > 0 && one.getBoundingClientRect().right <= {width})");
    let calls = "[...document.querySelectorAll('.call')]";
    assert_eq!(browser.eval(&format!("{calls}.length > 40 && {calls}.every({inside})")), true);
    let overflowing = "[...document.querySelectorAll('.time')].filter((time) => time.scrollWidth > time.clientWidth)";
    assert_eq!(browser.eval(&format!("{overflowing}.length")), 0);
    let names = "[...document.querySelectorAll('#et-same-fd-two-threads .call')].map((call) => call.dataset.who)";
    assert_eq!(browser.eval(&format!("{names}.every(Boolean)")), true);
}

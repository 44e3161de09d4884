//! A real browser without a window, driven over its DevTools protocol.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use api::client::{Client, Endpoint, WebSocket};
use base::process::Command;
use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

/// What has not happened in a page for so long never will.
const HANGS: Duration = Duration::from_secs(90);
/// Programs that speak the protocol.
const NAMES: [&str; 2] = ["chromium", "google-chrome"];
const SAYS_WHERE: &str = "DevTools listening on ws://";
/// What waits in the page, told of every change of it, until an expression is true.
const WAIT: &str = "new Promise(resolve => { \
    const look = () => { const found = (EXPRESSION); if (found) resolve(found); return found; }; \
    if (look()) return; \
    const observer = new MutationObserver(() => look() && observer.disconnect()); \
    observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true }); \
})";

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    socket: WebSocket,
    page: String,
    count: u64,
    /// How many pages have been loaded to their end.
    loaded: u32,
    /// Addresses of all requests so far, WebSockets included.
    pub requests: Vec<String>,
    /// What the page's policy has kept it from, and what its scripts have failed with.
    pub complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `None` if this machine has none that would work.
    ///
    /// # Panics
    /// If there is one that does not start.
    pub async fn start(width: u32, height: u32) -> Option<Self> {
        let program = program()?;
        let profile = tempfile::tempdir().expect("a directory for the profile");
        let mut command = Command::new(program)
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .args(["--headless=new", "--no-sandbox", "--remote-debugging-port=0"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
            ])
            .args(["--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"])
            // Names lead nowhere, whoever asks.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={width},{height}"))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.as_std_mut().process_group(0);
        let mut child = command.spawn_child().expect("the browser starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let place = lines.find_map(|line| line.strip_prefix(SAYS_WHERE).map(str::to_owned));
        // It goes on talking.
        std::thread::spawn(move || lines.for_each(drop));
        let place = place.expect("the browser says where it listens");
        let (address, path) = place.split_once('/').expect("an address and a path");
        let (host, port) = address.split_once(':').expect("a host and a port");
        let endpoint = Endpoint::Tcp { host: host.to_owned(), port: port.parse().expect("a port") };
        let client = Client::new(endpoint, None);
        let socket = client.websocket(&format!("/{path}")).await.expect("DevTools answer");
        let mut browser = Self {
            child,
            socket,
            page: String::new(),
            count: 0,
            loaded: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        browser.open_page().await;
        browser.resize(width, height).await;
        Some(browser)
    }

    async fn open_page(&mut self) {
        let target = self.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call("Target.attachToTarget", attach).await;
        self.page = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({})).await;
        }
    }

    /// Gives the window another size.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Goes somewhere.
    pub async fn open(&mut self, url: &str) {
        let before = self.loaded;
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        while self.loaded == before {
            self.hear().await;
        }
    }

    /// Waits until an expression is true in the page, and gives its value.
    ///
    /// # Panics
    /// If it never is; with what the page shows.
    pub async fn until(&mut self, expression: &str) -> Value {
        let waiting = WAIT.replace("EXPRESSION", expression);
        match tokio::time::timeout(HANGS, self.evaluate(&waiting)).await {
            Ok(found) => found,
            Err(_) => {
                let shown = self.evaluate("document.body.innerText").await;
                panic!(
                    "waited in vain for {expression}; complaints {:?}; the page shows {shown}",
                    self.complaints
                )
            }
        }
    }

    /// What an expression is in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let wanted =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let found = self.call("Runtime.evaluate", wanted).await;
        assert!(found.get("exceptionDetails").is_none(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    /// Types a line, as a keyboard does.
    pub async fn type_line(&mut self, text: &str) {
        for one in text.chars() {
            let key = json!({ "type": "char", "text": one.to_string() });
            self.call("Input.dispatchKeyEvent", key).await;
        }
        for kind in ["keyDown", "keyUp"] {
            let enter = json!({ "type": kind, "key": "Enter", "code": "Enter", "text": "\r",
                "windowsVirtualKeyCode": 13 });
            self.call("Input.dispatchKeyEvent", enter).await;
        }
    }

    /// Clicks on what a selector finds.
    pub async fn click(&mut self, selector: &str) {
        self.evaluate(&format!("document.querySelector({selector:?}).click()")).await;
    }

    /// Keeps a picture of what is seen.
    ///
    /// # Panics
    /// If it cannot be written.
    pub async fn picture(&mut self, to: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let data = picture["data"].as_str().expect("a picture");
        let bytes = base64(data);
        fs_err::write(to, bytes).expect("a picture can be written");
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.count += 1;
        let id = self.count;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.page.is_empty() {
            message["sessionId"] = self.page.clone().into();
        }
        self.socket.send(Message::text(message.to_string())).await.expect("the browser listens");
        loop {
            let heard = self.hear().await;
            if heard["id"] == id {
                assert!(heard.get("error").is_none(), "{method}: {heard}");
                return heard["result"].clone();
            }
        }
    }

    async fn hear(&mut self) -> Value {
        loop {
            let next = self.socket.next().await.expect("the browser runs");
            let Message::Text(text) = next.expect("the browser talks") else { continue };
            let heard: Value = serde_json::from_str(&text).expect("JSON");
            if let Some(method) = heard["method"].as_str() {
                self.note(method, &heard["params"]);
            }
            return heard;
        }
    }

    fn note(&mut self, method: &str, told: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match method {
            "Network.requestWillBeSent" => self.requests.push(text(&told["request"]["url"])),
            "Network.webSocketCreated" => self.requests.push(text(&told["url"])),
            "Page.loadEventFired" => self.loaded += 1,
            "Runtime.exceptionThrown" => self.complaints.push(told.to_string()),
            "Log.entryAdded" if told["entry"]["source"] == "security" => {
                self.complaints.push(text(&told["entry"]["text"]));
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has helpers, which are in its group, and of whose end nobody is told. What they still
        // write would keep the profile from being removed.
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        for _ in 0..500 {
            if test_kill_process_group(group).is_err() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// The browser of this machine, or nothing and a loud word about why.
#[expect(clippy::print_stderr, reason = "a test that is not made must be heard of")]
fn program() -> Option<&'static str> {
    let works = |name: &&&str| {
        let version = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|said| !said.is_empty())
    };
    let found = NAMES.iter().find(works).copied();
    if found.is_none() {
        eprintln!(
            "NOT TESTED: the page of shared terminals. There is no browser that starts: {NAMES:?}. \
             On Debian: apt-get install chromium. Ubuntu has it as a snap only, which does not run \
             everywhere; there, install another build of it."
        );
    }
    found
}

/// Decodes base64 without padding errors in mind: the browser makes none.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |byte| DIGITS.iter().position(|digit| *digit == byte).unwrap_or(0);
    let digits: Vec<usize> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let bits = four.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
        let [.., high, middle, low] = bits.to_be_bytes();
        bytes.extend(&[high, middle, low][..four.len() - 1]);
    }
    bytes
}

//! A browser without a window, driven by the DevTools protocol over a pair of pipes.
//!
//! <https://chromedevtools.github.io/devtools-protocol/> names the methods and events. Messages are
//! JSON and end with a NUL; the browser reads them at descriptor 3 and writes them at 4, so that
//! there is no port that another program could find.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::{PATIENCE, eventually, tool};

/// A running Chromium with a profile of its own. Dropping it ends it and removes the profile.
pub(crate) struct Browser {
    child: Child,
    /// The next message's number, and where messages go.
    to: Mutex<(u64, PipeWriter)>,
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
    _profile: tempfile::TempDir,
}

/// What the browser said.
#[derive(Default)]
struct Inbox {
    said: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    /// Answers that nobody took yet, by the number of their question.
    answers: HashMap<u64, Value>,
    events: Vec<Value>,
    ended: bool,
}

/// An open page. It stays until its browser ends.
pub(crate) struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

/// What a person set their system to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

impl Browser {
    /// Starts one; `None` where there is none, which is then named as the reason to skip.
    #[track_caller]
    pub(crate) fn start() -> Option<Browser> {
        let program = tool("chromium")?;
        let profile = tempfile::tempdir().expect("a directory");
        let (from_us, to) = std::io::pipe().expect("a pipe");
        let (from, to_us) = std::io::pipe().expect("a pipe");
        let mut command = Command::new(program);
        command
            .args([
                "--headless",
                "--remote-debugging-pipe",
                // Containers and root cannot have the sandbox, and only our own page is opened.
                "--no-sandbox",
                // Containers have little shared memory.
                "--disable-dev-shm-usage",
                "--disable-gpu",
                // Nothing but what a page asks for.
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-quic",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // It is many processes; they are ended together.
            .process_group(0)
            .fd_mappings(vec![
                FdMapping {
                    parent_fd: from_us.into(),
                    child_fd: 3,
                },
                FdMapping {
                    parent_fd: to_us.into(),
                    child_fd: 4,
                },
            ])
            .expect("each has a number of its own");
        let child = command.spawn().expect("the browser starts");
        // Its ends of the pipes are its own from here on, so that the end of it is seen.
        drop(command);
        let inbox = Arc::new(Inbox::default());
        let thread = std::thread::spawn({
            let inbox = inbox.clone();
            move || inbox.follow(from)
        });
        Some(Browser {
            child,
            to: Mutex::new((1, to)),
            inbox,
            thread: Some(thread),
            _profile: profile,
        })
    }

    /// Asks for something and waits for the answer, which may be that it cannot be done.
    #[track_caller]
    fn try_call(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value, String> {
        let id = {
            let mut to = self.to.lock().unwrap();
            let id = to.0;
            to.0 += 1;
            let mut message = json!({ "id": id, "method": method, "params": params });
            if let Some(session) = session {
                message["sessionId"] = session.into();
            }
            let mut bytes = message.to_string().into_bytes();
            bytes.push(0);
            to.1.write_all(&bytes).expect("the browser runs");
            id
        };
        let said = self.inbox.said.lock().unwrap();
        let waits = |said: &mut Said| !said.answers.contains_key(&id) && !said.ended;
        let (mut said, _) = self
            .inbox
            .changed
            .wait_timeout_while(said, PATIENCE, waits)
            .unwrap();
        let answer = said.answers.remove(&id);
        let ended = said.ended;
        // Not held over a panic: who reads the pipe needs it to see the end.
        drop(said);
        let mut answer =
            answer.unwrap_or_else(|| panic!("no answer to {method}; has it ended: {ended}"));
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].take()),
        }
    }

    /// Opens this address in a new page and waits until it is loaded.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) -> Page<'_> {
        let ask = |method, params| {
            self.try_call(None, method, params)
                .unwrap_or_else(|error| panic!("{method}: {error}"))
        };
        let target = ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = ask("Target.attachToTarget", attach);
        let page = Page {
            browser: self,
            session: session["sessionId"].as_str().expect("a name").to_owned(),
        };
        for room in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{room}.enable"), json!({}));
        }
        let opened = page.call("Page.navigate", json!({ "url": url }));
        assert_eq!(opened.get("errorText"), None, "{url}");
        page.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'");
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id() as i32).expect("a pid");
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        // What it said ends with the last process that could still write into the profile.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Inbox {
    fn follow(&self, pipe: PipeReader) {
        let mut messages = BufReader::new(pipe).split(0);
        while let Some(Ok(message)) = messages.next() {
            let Ok(message) = serde_json::from_slice::<Value>(&message) else {
                break;
            };
            let mut said = self.said.lock().unwrap();
            match message["id"].as_u64() {
                Some(id) => drop(said.answers.insert(id, message)),
                None => said.events.push(message),
            }
            self.changed.notify_all();
        }
        self.said.lock().unwrap().ended = true;
        self.changed.notify_all();
    }
}

impl Page<'_> {
    #[track_caller]
    fn call(&self, method: &str, params: Value) -> Value {
        self.browser
            .try_call(Some(&self.session), method, params)
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The value of an expression; of a promise, what it comes to. An error is what was thrown, or
    /// that the page went away meanwhile.
    #[track_caller]
    fn try_evaluate(&self, expression: &str) -> Result<Value, String> {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let session = Some(self.session.as_str());
        let mut answer = self.browser.try_call(session, "Runtime.evaluate", params)?;
        match answer.get("exceptionDetails") {
            Some(thrown) => Err(told(thrown)),
            None => Ok(answer["result"]["value"].take()),
        }
    }

    /// The value of an expression; of a promise, what it comes to.
    #[track_caller]
    pub(crate) fn evaluate(&self, expression: &str) -> Value {
        self.try_evaluate(expression)
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The value of an expression, which is a string.
    #[track_caller]
    pub(crate) fn text(&self, expression: &str) -> String {
        let value = self.evaluate(expression);
        let text = value.as_str();
        text.unwrap_or_else(|| panic!("{expression}: {value}"))
            .to_owned()
    }

    /// Waits until this holds. What it throws means: not yet.
    #[track_caller]
    pub(crate) fn wait_for(&self, condition: &str) {
        eventually(condition, || {
            self.try_evaluate(condition) == Ok(Value::Bool(true))
        });
    }

    /// Becomes a screen of this size, in CSS pixels; a phone's has two dots to each and a finger.
    #[track_caller]
    pub(crate) fn be_a_phone(&self, width: u32, height: u32) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": true }),
        );
    }

    #[track_caller]
    pub(crate) fn prefer(&self, scheme: Scheme) {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let feature = json!({ "name": "prefers-color-scheme", "value": value });
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
    }

    /// Presses a key that writes nothing, as `ArrowLeft`.
    #[track_caller]
    pub(crate) fn press(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key }),
            );
        }
    }

    /// Everything so far that a developer would see in red: what was thrown, errors in the console,
    /// requests that failed, and what a content security policy forbade.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.events(|method, params| match method {
            "Runtime.exceptionThrown" => Some(told(&params["exceptionDetails"])),
            "Runtime.consoleAPICalled" => {
                let is_error = params["type"] == "error" || params["type"] == "assert";
                is_error.then(|| params["args"].to_string())
            }
            "Log.entryAdded" => {
                let entry = &params["entry"];
                let is_error = entry["level"] == "error" || entry["source"] == "security";
                is_error.then(|| format!("{} {}", entry["text"], entry["url"]))
            }
            _ => None,
        })
    }

    /// The addresses of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.events(|method, params| {
            let url = params["request"]["url"].as_str();
            url.filter(|_| method == "Network.requestWillBeSent")
                .map(str::to_owned)
        })
    }

    fn events(&self, pick: impl Fn(&str, &Value) -> Option<String>) -> Vec<String> {
        let said = self.browser.inbox.said.lock().unwrap();
        let own = said
            .events
            .iter()
            .filter(|event| event["sessionId"] == *self.session);
        own.filter_map(|event| pick(event["method"].as_str()?, &event["params"]))
            .collect()
    }
}

/// What was thrown, in words.
fn told(details: &Value) -> String {
    let thrown = &details["exception"]["description"];
    thrown
        .as_str()
        .map_or_else(|| details.to_string(), str::to_owned)
}

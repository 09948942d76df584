//! `eagain inspect`: what a process has in its epolls, as the kernel tells it in /proc.
//!
//! The list of interest is in /proc/PID/fdinfo (`fdinfo-lists-interest`); the queue of what is ready is nowhere. A
//! registration belongs to an open file, not to a number: where the number is closed or means another file by now, a
//! duplicate somewhere keeps the registration alive (`close-with-dup-ghost`), and this says so.

mod fdinfo;
mod files;
mod life;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use self::fdinfo::Registration;
use self::files::Files;
use crate::cli;
use crate::say;

/// One epoll of the process.
#[derive(Serialize)]
struct Epoll {
    fd: i32,
    /// The same epoll under other numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also: Vec<i32>,
    registrations: Vec<Entry>,
}

/// One registration, for people and programs.
#[derive(Serialize)]
struct Entry {
    fd: i32,
    what: String,
    mode: &'static str,
    events: String,
    data: String,
    /// The number is closed, or another file by now.
    ghost: bool,
}

#[derive(Serialize)]
struct Picture {
    pid: u32,
    name: String,
    epolls: Vec<Epoll>,
}

pub(crate) fn run(options: cli::Inspect) -> ExitCode {
    let told = match look(options.pid) {
        Ok(picture) => {
            let text = match options.json {
                true => serde_json::to_string(&picture).unwrap_or_default() + "\n",
                false => draw(&picture),
            };
            say::deliver(&text)
        }
        Err(why) => Err(why),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

fn look(pid: u32) -> Result<Picture, String> {
    let files = Files::of(pid)?;
    let mut epolls: BTreeMap<String, Epoll> = BTreeMap::new();
    let is_eagain = files.name == "eagain";
    for fd in files.epolls() {
        // It may have been closed since it was listed.
        let Ok(info) = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else { continue };
        let mut registrations = fdinfo::registrations(&info);
        registrations.sort_by_key(|registration| registration.fd);
        // Numbers of one epoll are told apart from two empty ones by what they hold; two that hold nothing stay two.
        let key = if registrations.is_empty() { format!("{fd}") } else { fdinfo::lines(&info) };
        if let Some(known) = epolls.get_mut(&key) {
            known.also.push(fd);
            continue;
        }
        let tokens = is_eagain && registrations.iter().any(|registration| registration.data == u64::MAX);
        let entries = registrations.iter().map(|registration| entry(&files, registration, tokens)).collect();
        epolls.insert(key, Epoll { fd, also: Vec::new(), registrations: entries });
    }
    if epolls.is_empty() {
        return Err(life::nothing_in(pid, &files.name));
    }
    let mut epolls: Vec<Epoll> = epolls.into_values().collect();
    epolls.sort_by_key(|epoll| epoll.fd);
    Ok(Picture { pid, name: files.name, epolls })
}

fn entry(files: &Files, registration: &Registration, tokens: bool) -> Entry {
    let ghost = !files.is_still(registration);
    let what = match ghost {
        true => format!("closed here, and alive in a duplicate (inode {})", registration.inode),
        false => files.what(registration.fd),
    };
    Entry {
        fd: registration.fd,
        what,
        mode: registration.mode(),
        events: registration.events(),
        data: if tokens { fdinfo::token(registration.data) } else { format!("{:#x}", registration.data) },
        ghost,
    }
}

fn draw(picture: &Picture) -> String {
    let plural = if picture.epolls.len() == 1 { "" } else { "s" };
    let count = picture.epolls.len();
    let name = say::one_line(&picture.name);
    let mut text = format!("process {} ({name}): {count} epoll{plural}\n", picture.pid);
    let is_inner = |fd: i32| picture.epolls.iter().flat_map(|epoll| &epoll.registrations).any(|entry| entry.fd == fd);
    let mut drawn = BTreeSet::new();
    for epoll in picture.epolls.iter().filter(|epoll| !is_inner(epoll.fd)) {
        branch(picture, epoll, 0, &mut drawn, &mut text);
    }
    // What is left is inside of another, but not of one of this list.
    for epoll in &picture.epolls {
        if !drawn.contains(&epoll.fd) {
            branch(picture, epoll, 0, &mut drawn, &mut text);
        }
    }
    text
}

/// An epoll, and under its line the epolls in it.
fn branch(picture: &Picture, epoll: &Epoll, depth: usize, drawn: &mut BTreeSet<i32>, text: &mut String) {
    drawn.insert(epoll.fd);
    let margin = depth * 4;
    let also: String = epoll.also.iter().map(|fd| format!(" = {fd}")).collect();
    let _ = writeln!(text, "\n{:margin$}epoll {}{also}: {} registered", "", epoll.fd, epoll.registrations.len());
    let width = |cell: fn(&Entry) -> usize| epoll.registrations.iter().map(cell).max().unwrap_or(0);
    // A path may have any characters, and must not command the terminal.
    let (what, events) = (width(|entry| say::one_line(&entry.what).chars().count()), width(|entry| entry.events.len()));
    for entry in &epoll.registrations {
        let Entry { fd, mode, events: mask, data, .. } = entry;
        let name = say::one_line(&entry.what);
        let _ = writeln!(text, "{:margin$}  {fd:>5}  {name:what$}  {mode}  {mask:events$}  {data}", "");
        let inner = picture.epolls.iter().find(|inner| inner.fd == *fd);
        if let Some(inner) = inner.filter(|inner| !entry.ghost && !drawn.contains(&inner.fd)) {
            branch(picture, inner, depth + 1, drawn, text);
        }
    }
}

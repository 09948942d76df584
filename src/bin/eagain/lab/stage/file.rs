//! A file, a pipe's end, a socket on the stage, and what can be done with it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use eagain::sys::{net, raw};
use nix::errno::Errno;
use socket2::SockRef;

use super::Stage;
use super::answer::{Answer, Mask, Seen};
use super::pair::End;
use crate::lab::verdict::{Outcome, Stop};

/// Cheap to clone, so that threads can use it.
#[derive(Clone)]
pub(crate) struct File {
    pub(super) stage: Stage,
    pub(crate) name: String,
    fd: Arc<OwnedFd>,
    /// For one end of a connection: which, so that what it sends can be waited for at the other.
    end: Option<End>,
    is_socket: bool,
}

/// As much as is moved at once where the amount does not matter.
const CHUNK: usize = 64 * 1024;

impl File {
    pub(super) fn new(stage: &Stage, name: String, fd: OwnedFd, end: Option<End>) -> Self {
        let is_socket = SockRef::from(&fd).r#type().is_ok();
        Self { stage: stage.clone(), name, fd: Arc::new(fd), end, is_socket }
    }

    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&*self.fd)
    }

    /// Whether a read or write that cannot go on blocks the thread.
    pub(crate) fn blocking(&self, yes: bool) -> Outcome {
        self.act("fcntl", &format!("O_NONBLOCK {}", if yes { "off" } else { "on" }), || {
            self.socket().set_nonblocking(!yes).map_err(|error| os(&error))
        })
    }

    pub(crate) fn is_nonblocking(&self) -> Outcome<bool> {
        Ok(raw::fcntl(&self.fd, libc::F_GETFL).map_err(Errno::from_raw)? & libc::O_NONBLOCK != 0)
    }

    pub(crate) fn is_cloexec(&self) -> Outcome<bool> {
        Ok(raw::fcntl(&self.fd, libc::F_GETFD).map_err(Errno::from_raw)? & libc::FD_CLOEXEC != 0)
    }

    // ---- writing --------------------------------------------------------------------------------------------------

    /// Sends so many bytes, all of which must be taken, and waits until they are at the other end.
    pub(crate) fn send(&self, count: usize) -> Outcome {
        self.say(&vec![b'.'; count])
    }

    /// The same for bytes that matter.
    pub(crate) fn say(&self, bytes: &[u8]) -> Outcome {
        let arrival = self.end.as_ref().map(|end| end.before_sending(bytes.len()));
        self.try_say(bytes).must_be(bytes.len())?;
        if let (Some(end), Some(arrival)) = (&self.end, arrival) {
            end.arrived(&self.stage, arrival);
        }
        Ok(())
    }

    /// Sends what the file takes of so many bytes.
    pub(crate) fn try_send(&self, count: usize) -> Seen {
        self.try_say(&vec![b'.'; count])
    }

    pub(crate) fn try_say(&self, bytes: &[u8]) -> Seen {
        let verb = if self.is_socket { "send" } else { "write" };
        let text = format!("{verb}({}, {})", self.name, amount(bytes.len()));
        let work = || match self.is_socket {
            true => net::send(&self.fd, bytes).map_err(|error| os(&error)),
            false => nix::unistd::write(&self.fd, bytes),
        };
        self.stage.call(verb, text, work, |&count| count.into()).1
    }

    /// Sends until nothing more is taken. Returns how much that was.
    pub(crate) fn fill(&self) -> Outcome<usize> {
        let (mut sum, bytes) = (0, vec![b'.'; CHUNK]);
        let work = || loop {
            let sent = match self.is_socket {
                true => net::send(&self.fd, &bytes).map_err(|error| os(&error)),
                false => nix::unistd::write(&self.fd, &bytes),
            };
            match sent {
                Ok(count) => sum += count,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        };
        let text = format!("send({}) until EAGAIN", self.name);
        self.stage.call("fill", text, work, |()| Answer::Done).1.ok()?;
        Ok(sum)
    }

    /// Adds to an eventfd's counter.
    pub(crate) fn add(&self, count: u64) -> Outcome {
        self.try_add(count).must_be(8)
    }

    pub(crate) fn try_add(&self, count: u64) -> Seen {
        let text = format!("write({}, {count})", self.name);
        self.stage.call("write", text, || nix::unistd::write(&self.fd, &count.to_ne_bytes()), |&n| n.into()).1
    }

    /// Ends the sending direction: FIN.
    pub(crate) fn shut_write(&self) -> Outcome {
        self.shutdown(libc::SHUT_WR, "WR")?;
        self.settle(|end, stage| end.arrived_eof(stage))
    }

    pub(crate) fn shut_read(&self) -> Outcome {
        self.shutdown(libc::SHUT_RD, "RD")
    }

    pub(crate) fn shut_both(&self) -> Outcome {
        self.shutdown(libc::SHUT_RDWR, "RDWR")?;
        self.settle(|end, stage| end.arrived_eof(stage))
    }

    fn shutdown(&self, how: i32, name: &str) -> Outcome {
        let text = format!("shutdown({}, {name})", self.name);
        let work = || raw::shutdown(&self.fd, how).map_err(Errno::from_raw);
        self.stage.call("shutdown", text, work, |()| Answer::Done).1.ok()?;
        Ok(())
    }

    // ---- reading --------------------------------------------------------------------------------------------------

    /// One read of at most so many bytes: how many came; 0 is the end.
    pub(crate) fn recv(&self, most: usize) -> Seen {
        self.read(most, |bytes| bytes.len().into())
    }

    /// The same, for bytes that matter.
    pub(crate) fn hear(&self, most: usize) -> Seen {
        self.read(most, |bytes| String::from_utf8_lossy(bytes).into_owned().into())
    }

    fn read(&self, most: usize, answer: impl FnOnce(&[u8]) -> Answer) -> Seen {
        let verb = if self.is_socket { "recv" } else { "read" };
        let text = format!("{verb}({}, {})", self.name, amount(most));
        let mut buffer = vec![0; most];
        let work = || {
            let count = match self.is_socket {
                true => net::recv_slice(&self.fd, &mut buffer).map_err(|error| os(&error)),
                false => nix::unistd::read(&self.fd, &mut buffer),
            }?;
            buffer.truncate(count);
            Ok(buffer)
        };
        self.stage.call(verb, text, work, |bytes| answer(bytes)).1
    }

    /// The counter of an eventfd, or the expiries of a timerfd.
    pub(crate) fn take(&self) -> Seen {
        let text = format!("read({})", self.name);
        let work = || {
            let mut bytes = [0; 8];
            nix::unistd::read(&self.fd, &mut bytes).map(|_| u64::from_ne_bytes(bytes))
        };
        self.stage.call("read", text, work, |&count| count.into()).1
    }

    /// Reads, waiting for more, until `enough` says so, the end has come, or there was silence for two seconds. Returns
    /// how much that was.
    pub(crate) fn read_until(&self, enough: impl Fn(usize) -> bool) -> Outcome<usize> {
        let (mut sum, mut buffer) = (0, vec![0; CHUNK]);
        let text = format!("recv({}), again and again", self.name);
        let work = || loop {
            if enough(sum) {
                return Ok(sum);
            }
            match self.read_into(&mut buffer) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(sum),
                Ok(count) => sum += count,
                Err(Errno::EAGAIN) => {
                    let wanted = [(self.number(), libc::POLLIN)];
                    if raw::poll(&wanted, self.stage.soon_ms()).map_err(Errno::from_raw)? == [0] {
                        return Ok(sum);
                    }
                }
                Err(errno) => return Err(errno),
            }
        };
        let (_, seen) = self.stage.call("drain", text, work, |&sum| sum.into());
        Ok(seen.ok()?.count() as usize)
    }

    fn read_into(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self.is_socket {
            true => net::recv_slice(&self.fd, buffer).map_err(|error| os(&error)),
            false => nix::unistd::read(&self.fd, buffer),
        }
    }

    /// `recv` with flags, for instance MSG_PEEK: how many bytes came.
    pub(crate) fn recv_flags(&self, most: usize, flags: i32, name: &str) -> Seen {
        let mut buffer = Vec::with_capacity(most);
        let text = format!("recv({}, {}, {name})", self.name, amount(most));
        let spare = buffer.spare_capacity_mut();
        let work = || self.socket().recv_with_flags(&mut spare[..most], flags).map_err(|error| os(&error));
        self.stage.call("recv", text, work, |&count| count.into()).1
    }

    /// How many bytes wait to be read.
    pub(crate) fn unread(&self) -> Seen {
        let text = format!("ioctl({}, FIONREAD)", self.name);
        let work = || raw::unread(self.number()).map_err(Errno::from_raw);
        self.stage.call("ioctl", text, work, |&count| count.into()).1
    }

    // ---- state ----------------------------------------------------------------------------------------------------

    /// What poll(2) says of it now.
    pub(crate) fn poll(&self, wanted: Mask) -> Seen {
        poll_now(&self.stage, &self.name, self.number(), wanted)
    }

    /// SO_ERROR, which reading clears: `0` or the name of the error.
    pub(crate) fn so_error(&self) -> Seen {
        let text = format!("getsockopt({}, SO_ERROR)", self.name);
        let work = || raw::get_option(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR).map_err(Errno::from_raw);
        let answer = |&value: &i32| match value {
            0 => "0".into(),
            _ => format!("{:?}", Errno::from_raw(value)).into(),
        };
        self.stage.call("getsockopt", text, work, answer).1
    }

    pub(crate) fn set_option(&self, level: i32, name: i32, label: &str, value: i32) -> Outcome {
        self.try_set_option(level, name, label, value).ok()?;
        Ok(())
    }

    pub(crate) fn try_set_option(&self, level: i32, name: i32, label: &str, value: i32) -> Seen {
        let text = format!("setsockopt({}, {label}, {value})", self.name);
        let work = || raw::set_option(&self.fd, level, name, value).map_err(Errno::from_raw);
        self.stage.call("setsockopt", text, work, |()| Answer::Done).1
    }

    pub(crate) fn get_option(&self, level: i32, name: i32) -> Outcome<i32> {
        Ok(raw::get_option(&self.fd, level, name).map_err(Errno::from_raw)?)
    }

    /// Does something to it that must succeed.
    pub(super) fn act(&self, verb: &'static str, what: &str, work: impl FnOnce() -> Result<(), Errno>) -> Outcome {
        self.stage.call(verb, format!("{verb}({}, {what})", self.name), work, |()| Answer::Done).1.ok()?;
        Ok(())
    }

    /// Waits until the other end of the line has noticed.
    fn settle(&self, arrived: impl FnOnce(&End, &Stage)) -> Outcome {
        if let Some(end) = &self.end {
            arrived(end, &self.stage);
        }
        Ok(())
    }

    /// One urgent byte, which has arrived when this returns.
    pub(crate) fn send_urgent(&self) -> Outcome {
        let work = || self.socket().send_out_of_band(b"!").map_err(|error| os(&error));
        let text = format!("send({}, 1 B, OOB)", self.name);
        self.stage.call("send", text, work, |&count| count.into()).1.must_be(1)?;
        self.settle(|end, stage| end.arrived_urgent(stage))
    }

    // ---- ending ---------------------------------------------------------------------------------------------------

    /// A second number for the same open file.
    pub(crate) fn dup(&self) -> Outcome<Self> {
        self.dup_from(0)
    }

    /// The lowest free number from `from`.
    pub(crate) fn dup_from(&self, from: RawFd) -> Outcome<Self> {
        let name = self.stage.name(&format!("dup of {}", self.name));
        let work = || raw::dup_from(&self.fd, from).map_err(Errno::from_raw);
        let (fd, seen) = self.stage.call("dup", format!("dup({})", self.name), work, |_| name.as_str().into());
        seen.ok()?;
        let fd = fd.ok_or_else(|| Stop::Untested("no duplicate".to_owned()))?;
        Ok(Self::new(&self.stage, name, fd, self.end.clone()))
    }

    /// Closes this number. If it was the connection's last, the FIN, or what comes in its place, has arrived at the
    /// other end when this returns.
    pub(crate) fn close(self) -> Outcome {
        let (end, stage) = (self.end.clone(), self.stage.clone());
        self.close_now()?;
        if let Some(end) = end.filter(End::is_alone) {
            end.arrived_eof(&stage);
            end.closed();
        }
        Ok(())
    }

    /// Closes a connection by RST, which has arrived when this returns.
    pub(crate) fn reset(self) -> Outcome {
        let (end, stage) = (self.end.clone(), self.stage.clone());
        self.socket().set_linger(Some(Duration::ZERO))?;
        self.stage.note("SO_LINGER of 0 s: the close below is an RST");
        self.close_now()?;
        if let Some(end) = end {
            end.arrived_reset(&stage);
            end.closed();
        }
        Ok(())
    }

    fn close_now(self) -> Outcome {
        let text = format!("close({})", self.name);
        let Some(fd) = Arc::into_inner(self.fd) else {
            return Err(Stop::Untested(format!("{} is still in use by a thread", self.name)));
        };
        self.stage.call("close", text, closing(fd), |()| Answer::Done).1.ok()?;
        Ok(())
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Closes by dropping, which cannot fail.
pub(super) fn closing<T>(owner: T) -> impl FnOnce() -> Result<(), Errno> {
    || {
        drop(owner);
        Ok(())
    }
}

/// What poll(2) says of a number now.
pub(crate) fn poll_now(stage: &Stage, name: &str, number: RawFd, wanted: Mask) -> Seen {
    let text = format!("poll({name}, {wanted})");
    // The bits of poll and epoll are the same ones.
    let work = || raw::poll(&[(number, wanted.0 as i16)], 0).map_err(Errno::from_raw);
    stage
        .call("poll", text, work, |told| match told[..] {
            [bits] if bits != 0 => Mask(u32::from(bits as u16)).into(),
            _ => Answer::NOTHING,
        })
        .1
}

/// Bytes for people.
fn amount(bytes: usize) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

pub(super) fn os(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

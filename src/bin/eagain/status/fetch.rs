//! `GET /metrics`, and one line that says why not.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::time::Duration;

use httparse::{EMPTY_HEADER, Response, Status};

use crate::address::Address;
use crate::say::reason;

/// For the connection, and for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The page of a thousand workers has about 8 MiB.
const PAGE_MAX_BYTES: usize = 64 << 20;

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: eagain\r\nConnection: close\r\n\r\n";

/// The body of the answer. `name` is how the user wrote the address.
pub(super) fn page(address: &Address, name: &str) -> Result<String, String> {
    let failed = |error: io::Error| {
        let why = if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            format!("no answer within {PATIENCE:?}")
        } else {
            reason(&error)
        };
        format!("cannot ask {name}: {why}; is the server running with --metrics {name}?")
    };
    let answer = match address {
        Address::Tcp(addresses) => dial(addresses).map_err(failed).map(|stream| ask(&stream, &stream)),
        Address::Unix(path) => UnixStream::connect(path).map_err(failed).map(ask_unix),
        Address::Abstract(bytes) => {
            let connect = UnixAddress::from_abstract_name(bytes).and_then(|at| UnixStream::connect_addr(&at));
            connect.map_err(failed).map(ask_unix)
        }
    }?;
    match answer.map_err(failed)? {
        Some(body) => Ok(body),
        None => Err(stranger(name)),
    }
}

/// What answers is something else.
pub(super) fn stranger(name: &str) -> String {
    format!("{name} does not answer as eagain's --metrics does; is it the address of something else?")
}

/// The first address that answers, or the last error.
fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        result = TcpStream::connect_timeout(address, PATIENCE);
        if result.is_ok() {
            break;
        }
    }
    let stream = result?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask_unix(stream: UnixStream) -> io::Result<Option<String>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    ask(&stream, &stream)
}

/// `None`: the answer is not 200 with a text of a known length.
fn ask(mut sink: impl Write, mut source: impl Read) -> io::Result<Option<String>> {
    sink.write_all(REQUEST)?;
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = match source.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        answer.extend_from_slice(&piece[..count]);
        match body(&answer) {
            Found::All(text) => return Ok(Some(text)),
            Found::Part if count > 0 && answer.len() <= PAGE_MAX_BYTES => {}
            Found::Part | Found::Nothing => return Ok(None),
        }
    }
}

enum Found {
    All(String),
    Part,
    Nothing,
}

fn body(answer: &[u8]) -> Found {
    let mut fields = [EMPTY_HEADER; 64];
    let mut response = Response::new(&mut fields);
    let head = match response.parse(answer) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Found::Part,
        Err(_) => return Found::Nothing,
    };
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    match (response.code, length) {
        (Some(200), Some(length)) if length > PAGE_MAX_BYTES => Found::Nothing,
        (Some(200), Some(length)) if answer.len() < head + length => Found::Part,
        (Some(200), Some(length)) => match String::from_utf8(answer[head..head + length].to_vec()) {
            Ok(text) => Found::All(text),
            Err(_) => Found::Nothing,
        },
        _ => Found::Nothing,
    }
}

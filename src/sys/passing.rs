//! Descriptors that travel with bytes over a Unix socket (SCM_RIGHTS).
//!
//! What the calls get wrong, or leave to the caller, and what this file does about it:
//!
//! - a. A descriptor arrives as a number that nobody owns. Here each one becomes an [`OwnedFd`] before anything else,
//!   those too that came with a message that was cut off: a leaked number is a connection that never ends.
//! - b. It arrives without close-on-exec unless asked (MSG_CMSG_CLOEXEC).
//! - c. A receiver without room for them, or without free numbers, gets fewer, and is told so by a flag (MSG_CTRUNC):
//!   [`Received::cut_off`].

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// The most descriptors that the kernel takes in one message (SCM_MAX_FD, `unix(7)`).
pub const MOST: usize = 253;

/// The size of one number in a control message.
const NUMBER: usize = size_of::<RawFd>();
/// Room for [`MOST`] of them behind a header.
const CONTROL_BYTES: usize = 1040;

/// Memory for one control message, aligned as its header is.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [MaybeUninit<u8>; CONTROL_BYTES],
}

// SAFETY: CMSG_SPACE is arithmetic.
const _: () = assert!(unsafe { libc::CMSG_SPACE((MOST * NUMBER) as u32) } as usize <= CONTROL_BYTES);

/// What one message brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes that were written to the buffer. 0 is the end, if the other side never sends an empty message.
    pub bytes: usize,
    /// Its descriptors, in the order in which they were sent; close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// The buffer was too short for the bytes, or this process has no numbers left for all descriptors.
    pub cut_off: bool,
}

/// Sends one message with these descriptors, which stay open here too. `bytes` must not be empty: a stream socket would
/// send nothing, and the descriptors neither. Returns how many bytes were taken: all, or on a stream socket fewer, and
/// then the descriptors have gone with the first.
///
/// # Errors
/// EINVAL for no bytes or more than [`MOST`] descriptors; those of `sendmsg(2)`: EAGAIN if the socket has no room,
/// EPIPE if nobody holds the other end, ETOOMANYREFS if more descriptors are on their way than RLIMIT_NOFILE allows
/// (without CAP_SYS_RESOURCE).
///
/// # References
/// `sendmsg(2)`, `unix(7)`, `cmsg(3)`.
#[doc(alias = "SCM_RIGHTS")]
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() || descriptors.len() > MOST {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = Control { bytes: [MaybeUninit::zeroed(); CONTROL_BYTES] };
    let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = message(&mut piece);
    if !descriptors.is_empty() {
        let length = (descriptors.len() * NUMBER) as u32;
        message.msg_control = (&raw mut control).cast();
        // SAFETY: arithmetic.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: `msg_control` points to memory with room for `MOST` numbers, aligned for a header, so the first
        // header is inside of it, and all the numbers (no more than `MOST`) behind that.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            let numbers = libc::CMSG_DATA(header).cast::<RawFd>();
            for (index, descriptor) in descriptors.iter().enumerate() {
                numbers.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: the kernel reads the message, the bytes that it points to (borrowed, never written) and the control
        // memory; all outlive the call.
        let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) => again()?,
        }
    }
}

/// Receives one message, and owns all its descriptors.
///
/// # Errors
/// Those of `recvmsg(2)`: EAGAIN if nothing waits and the socket is non-blocking.
///
/// # References
/// `recvmsg(2)`, `unix(7)`, `cmsg(3)`.
#[doc(alias = "SCM_RIGHTS")]
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control { bytes: [MaybeUninit::zeroed(); CONTROL_BYTES] };
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = message(&mut piece);
    let bytes = loop {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: the kernel writes to the buffer, which `&mut` keeps for us, and to the control memory, no more than
        // the lengths that it is given.
        let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(received) {
            Ok(received) => break received,
            Err(_) => again()?,
        }
    };
    // SAFETY: the kernel has just filled the message and its control memory in, and this is the one time that the
    // numbers are taken out.
    let descriptors = unsafe { take(&message) };
    Ok(Received { bytes, descriptors, cut_off: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 })
}

fn message(piece: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a msghdr is numbers and pointers; all zero is an empty one.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = piece;
    message.msg_iovlen = 1;
    message
}

/// The descriptors in the control messages, owned.
///
/// # Safety
/// `message` was filled in by `recvmsg(2)`, its control memory is there, and nobody has taken its descriptors.
unsafe fn take(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: the macros of cmsg(3) walk the headers that the kernel wrote and stop at `msg_controllen`; each header
    // tells how many numbers lie behind it, and each number is a descriptor that the kernel opened for us alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let length = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let numbers = libc::CMSG_DATA(header).cast::<RawFd>();
                let each = (0..length / NUMBER).map(|index| numbers.add(index).read_unaligned());
                taken.extend(each.map(|number| OwnedFd::from_raw_fd(number)));
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    taken
}

/// `Ok` if the call that has just failed is to be made again.
fn again() -> io::Result<()> {
    match check(-1).expect_err("the call has failed") {
        libc::EINTR => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn as_many_descriptors_as_there_may_be_arrive_in_order_and_close_on_exec() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let pipes: Vec<_> = (0..MOST).map(|_| std::io::pipe().unwrap()).collect();
        let readers: Vec<_> = pipes.iter().map(|(reader, _)| reader.as_fd()).collect();
        assert_eq!(send(&ours, b"all", &readers).unwrap(), 3);
        let mut buffer = [0; 8];
        let received = receive(&theirs, &mut buffer).unwrap();
        assert_eq!((&buffer[..received.bytes], received.cut_off), (&b"all"[..], false));
        assert_eq!(received.descriptors.len(), MOST);
        for (index, (descriptor, (_, writer))) in received.descriptors.into_iter().zip(pipes).enumerate() {
            // SAFETY: F_GETFD takes no memory.
            let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
            (&writer).write_all(&[index as u8]).unwrap();
            let mut byte = [0];
            File::from(descriptor).read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], index as u8);
        }
    }

    #[test]
    fn what_cannot_be_one_message_is_refused() {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        let many = vec![ours.as_fd(); MOST + 1];
        assert_eq!(send(&ours, b"x", &many).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(send(&ours, b"", &[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_message_without_descriptors_has_none_and_a_long_one_says_that_it_is_cut_off() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        send(&ours, b"0123456789", &[]).unwrap();
        let received = receive(&theirs, &mut [0; 4]).unwrap();
        assert!(received.descriptors.is_empty() && received.cut_off && received.bytes == 4);
    }
}

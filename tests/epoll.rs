//! Facts about `sys::epoll` and `sys::net`, each asked of the running kernel through the public door.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::thread::JoinHandleExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use eagain::sys::epoll::{Epoll, Error, Event, Events, Interest, Mode, Timeout};
use eagain::sys::net::{self, NonBlocking};
use nix::sys::eventfd::{EfdFlags, EventFd};

const READ: Interest = Interest::READ;
const WRITE: Interest = Interest::WRITE;
const LEVEL: Mode = Mode::LEVEL;
const EDGE: Mode = Mode::EDGE;

/// No test waits longer than this for what must come.
const PATIENCE: Timeout = Timeout::After(Duration::from_secs(60));

// ---- flags: what is reported ----------------------------------------------------------------------

#[test]
fn level_repeats_until_drained() {
    let (epoll, mut reader, mut writer) = watched_pipe(READ, LEVEL);
    writer.write_all(b"x").unwrap();
    assert_eq!(now(&epoll), ["7:IN"]);
    assert_eq!(now(&epoll), ["7:IN"]);
    reader.read_exact(&mut [0]).unwrap();
    assert_eq!(now(&epoll), [""; 0]);
}

#[test]
fn edge_reports_once_and_again_on_new_data() {
    let (ours, mut theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, READ, EDGE).unwrap();
    theirs.write_all(b"x").unwrap();
    assert_eq!(now(&epoll), ["7:IN"]);
    assert_eq!(now(&epoll), [""; 0]);
    theirs.write_all(b"y").unwrap();
    assert_eq!(now(&epoll), ["7:IN"]);
}

#[test]
fn edge_fires_for_what_was_ready_before_add_and_again_after_modify() {
    let (ours, mut theirs) = nonblocking_pair();
    theirs.write_all(b"x").unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, READ, EDGE).unwrap();
    assert_eq!(now(&epoll), ["7:IN"]);
    assert_eq!(now(&epoll), [""; 0]);
    epoll.modify(&ours, 8, READ, EDGE).unwrap();
    assert_eq!(now(&epoll), ["8:IN"]);
}

#[test]
fn writable_is_reported_only_if_asked_for() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, READ, LEVEL).unwrap();
    assert_eq!(now(&epoll), [""; 0]);
    epoll.modify(&ours, 7, READ | WRITE, LEVEL).unwrap();
    assert_eq!(now(&epoll), ["7:OUT"]);
}

#[test]
fn half_close_is_read_closed_only_if_asked_for() {
    for (interest, expected) in
        [(READ | Interest::READ_CLOSED, "7:IN|RDHUP"), (Interest::READ_CLOSED, "7:RDHUP"), (READ, "7:IN")]
    {
        let (ours, theirs) = tcp_pair();
        let epoll = Epoll::new().unwrap();
        epoll.add(&ours, 7, interest, LEVEL).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(soon(&epoll), [expected]);
    }
}

#[test]
fn urgent_data_is_priority() {
    let (ours, theirs) = tcp_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, Interest::PRIORITY, LEVEL).unwrap();
    socket2::SockRef::from(&theirs).send_out_of_band(b"!").unwrap();
    assert_eq!(soon(&epoll), ["7:PRI"]);
}

#[test]
fn reader_gone_is_error_and_writer_gone_is_hang_up_even_unasked() {
    let (reader, writer) = io::pipe().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&writer, 1, Interest::NONE, LEVEL).unwrap();
    close(reader);
    assert_eq!(now(&epoll), ["1:ERR"]);

    let (reader, writer) = io::pipe().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&reader, 2, Interest::NONE, LEVEL).unwrap();
    close(writer);
    assert_eq!(now(&epoll), ["2:HUP"]);
}

#[test]
fn interest_in_nothing_is_legal_and_silences_data() {
    let (ours, mut theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, Interest::NONE, LEVEL).unwrap();
    theirs.write_all(b"x").unwrap();
    assert_eq!(now(&epoll), [""; 0]);
    close(theirs);
    assert_eq!(now(&epoll), ["7:HUP"]);
}

#[test]
fn oneshot_is_silent_until_modified_even_about_a_hang_up() {
    let (ours, mut theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, READ, LEVEL.oneshot()).unwrap();
    theirs.write_all(b"x").unwrap();
    assert_eq!(now(&epoll), ["7:IN"]);
    theirs.write_all(b"y").unwrap();
    close(theirs);
    assert_eq!(now(&epoll), [""; 0]);
    epoll.modify(&ours, 7, READ, LEVEL.oneshot()).unwrap();
    assert_eq!(now(&epoll), ["7:IN|HUP"]);
}

#[test]
fn the_kernel_holds_exactly_the_mask_that_was_asked_for() {
    const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
    let all = READ | WRITE | Interest::READ_CLOSED | Interest::PRIORITY;
    let masks = [
        (Interest::NONE, LEVEL, 0),
        (all, LEVEL, 0x2007),
        (all, EDGE, 0x8000_2007),
        (all, EDGE.oneshot(), 0xc000_2007),
        (READ | WRITE, EDGE.exclusive(), 0x9000_0005),
        (READ, LEVEL.exclusive(), 0x1000_0001),
    ];
    for (interest, mode, expected) in masks {
        let (ours, _theirs) = nonblocking_pair();
        let epoll = Epoll::new().unwrap();
        epoll.add(&ours, 7, interest, mode).unwrap();
        assert_eq!(interest.bits() | mode.bits(), expected);
        assert_eq!(registered_mask(&epoll), expected | ALWAYS, "{interest:?} {mode:?}");
    }
}

#[test]
fn wakeup_is_accepted_with_every_mode_and_changes_no_other_bit() {
    const WAKEUP: u32 = libc::EPOLLWAKEUP as u32;
    for mode in [LEVEL, EDGE, EDGE.oneshot(), LEVEL.exclusive()] {
        let (ours, mut theirs) = nonblocking_pair();
        let epoll = Epoll::new().unwrap();
        epoll.add(&ours, 7, READ, mode.wakeup()).unwrap();
        assert_eq!(mode.wakeup().bits(), mode.bits() | WAKEUP);
        // Without CAP_BLOCK_SUSPEND the kernel drops the flag and says nothing.
        let always = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
        assert_eq!(registered_mask(&epoll) & !WAKEUP, READ.bits() | mode.bits() | always);
        theirs.write_all(b"x").unwrap();
        assert_eq!(now(&epoll), ["7:IN"]);
    }
}

#[test]
fn data_comes_back_bit_for_bit_and_modify_replaces_it() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    for data in [0, 1, u64::MAX, 0xdead_beef_1234_5678] {
        epoll.add(&ours, data, WRITE, LEVEL).unwrap();
        assert_eq!(one_event(&epoll).data(), data);
        epoll.modify(&ours, !data, WRITE, LEVEL).unwrap();
        assert_eq!(one_event(&epoll).data(), !data);
        epoll.delete(&ours).unwrap();
    }
}

#[test]
fn each_question_asks_exactly_one_bit() {
    type Question = fn(&Event) -> bool;
    let questions: [(u32, Question); 6] = [
        (libc::EPOLLIN as u32, Event::readable),
        (libc::EPOLLOUT as u32, Event::writable),
        (libc::EPOLLPRI as u32, Event::priority),
        (libc::EPOLLERR as u32, Event::error),
        (libc::EPOLLHUP as u32, Event::hung_up),
        (libc::EPOLLRDHUP as u32, Event::read_closed),
    ];
    let mut seen = 0;
    for event in [data_and_fin(), reset(), urgent(), broken_pipe()] {
        for (bit, question) in questions {
            assert_eq!(question(&event), event.bits() & bit != 0, "{event:?} {bit:#x}");
        }
        seen |= event.bits();
    }
    let asked: u32 = questions.iter().map(|(bit, _)| bit).sum();
    assert_eq!(seen, asked, "every bit was seen set at least once");
}

#[test]
fn errors_and_hang_ups_call_for_a_read_and_a_write() {
    let (fin, reset, urgent, broken) = (data_and_fin(), reset(), urgent(), broken_pipe());
    assert!(fin.should_read() && fin.writable() && fin.should_write());
    assert!(reset.error() && reset.hung_up() && reset.should_read() && reset.should_write());
    assert!(urgent.priority() && !urgent.should_read() && !urgent.should_write());
    assert!(broken.error() && broken.should_read() && broken.should_write());
}

#[test]
fn a_half_close_alone_calls_for_a_read_and_not_for_a_write() {
    let (ours, theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, Interest::READ_CLOSED, LEVEL).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    let event = one_event(&epoll);
    assert!(event.read_closed() && event.should_read() && !event.should_write());
}

/// Why a short read is no proof of emptiness where urgent data may come: it also stops at the mark.
#[test]
fn a_short_read_may_stop_at_an_urgent_mark_with_data_behind_it() {
    let (ours, mut theirs) = tcp_pair();
    theirs.write_all(b"before").unwrap();
    socket2::SockRef::from(&theirs).send_out_of_band(b"!").unwrap();
    theirs.write_all(b"behind").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while net::unread_bytes(&ours).unwrap() < 6 || !has_priority(&ours) {
        assert!(Instant::now() < deadline);
    }
    let mut buffer = Vec::new();
    assert_eq!(net::recv_append(&ours, &mut buffer, 4096).unwrap(), 6);
    loop {
        match net::recv_append(&ours, &mut buffer, 4096) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            received => break assert_eq!(received.unwrap(), 6),
        }
        assert!(Instant::now() < deadline);
    }
    assert_eq!(buffer, b"beforebehind");
}

// ---- refusals: every error, with what to do ---------------------------------------------------------

#[test]
fn adding_twice_is_already_registered_and_changes_nothing() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 1, WRITE, LEVEL).unwrap();
    assert_eq!(epoll.add(&ours, 2, READ, EDGE), Err(Error::AlreadyRegistered));
    assert_eq!(now(&epoll), ["1:OUT"]);
}

#[test]
fn what_is_not_registered_can_be_neither_modified_nor_deleted_twice() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    assert_eq!(epoll.modify(&ours, 1, READ, LEVEL), Err(Error::NotRegistered));
    epoll.add(&ours, 1, READ, LEVEL).unwrap();
    epoll.delete(&ours).unwrap();
    assert_eq!(epoll.delete(&ours), Err(Error::NotRegistered));
}

#[test]
fn regular_files_directories_and_dev_null_are_not_pollable() {
    let epoll = Epoll::new().unwrap();
    for path in ["/proc/self/exe", "/", "/dev/null"] {
        let file = File::open(path).unwrap();
        for mode in [LEVEL, EDGE] {
            assert_eq!(epoll.add(&file, 1, READ, mode), Err(Error::NotPollable), "{path}");
        }
    }
}

#[test]
fn an_epoll_cannot_be_added_to_itself() {
    let epoll = Epoll::new().unwrap();
    assert_eq!(epoll.add(&epoll, 1, READ, LEVEL), Err(Error::Invalid));
}

#[test]
fn epolls_in_a_circle_or_six_deep_are_a_loop() {
    let (a, b) = (Epoll::new().unwrap(), Epoll::new().unwrap());
    a.add(&b, 1, READ, LEVEL).unwrap();
    assert_eq!(b.add(&a, 1, READ, LEVEL), Err(Error::Loop));

    let chain: Vec<Epoll> = (0..6).map(|_| Epoll::new().unwrap()).collect();
    let links: Vec<_> = chain.windows(2).map(|pair| pair[0].add(&pair[1], 1, READ, LEVEL)).collect();
    assert_eq!(links, [Ok(()), Ok(()), Ok(()), Ok(()), Err(Error::Loop)]);
}

#[test]
fn a_descriptor_without_a_file_behind_it_is_bad() {
    let path_only = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/").unwrap();
    let epoll = Epoll::new().unwrap();
    assert_eq!(epoll.add(&path_only, 1, READ, LEVEL), Err(Error::BadDescriptor));
    assert_eq!(epoll.add(&path_only, 1, READ, EDGE), Err(Error::BadDescriptor));
}

#[test]
fn exclusive_is_refused_where_the_kernel_would_and_only_there() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    for interest in [READ | Interest::READ_CLOSED, Interest::PRIORITY] {
        let refused = epoll.add(&ours, 1, interest, LEVEL.exclusive());
        assert_eq!(refused, Err(Error::ExclusiveCombination));
        assert_eq!(raw_add(&epoll, &ours, interest, LEVEL.exclusive()), Err(libc::EINVAL));
    }
    let mode = LEVEL.exclusive().oneshot();
    assert_eq!(epoll.add(&ours, 1, READ, mode), Err(Error::ExclusiveCombination));
    assert_eq!(raw_add(&epoll, &ours, READ, mode), Err(libc::EINVAL));
    for interest in [Interest::NONE, READ, WRITE, READ | WRITE] {
        for mode in [LEVEL.exclusive(), EDGE.exclusive(), EDGE.exclusive().wakeup()] {
            epoll.add(&ours, 1, interest, mode).unwrap();
            epoll.delete(&ours).unwrap();
        }
    }
}

#[test]
fn an_exclusive_registration_is_not_modified_but_deleted_and_added() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 1, READ, LEVEL.exclusive()).unwrap();
    assert_eq!(epoll.modify(&ours, 1, READ, LEVEL), Err(Error::Invalid));
    let refused = epoll.modify(&ours, 1, READ, LEVEL.exclusive());
    assert_eq!(refused, Err(Error::ExclusiveCombination));
    epoll.delete(&ours).unwrap();
    epoll.add(&ours, 1, READ, LEVEL).unwrap();
}

#[test]
fn another_epoll_is_not_watched_exclusively() {
    let (outer, inner) = (Epoll::new().unwrap(), Epoll::new().unwrap());
    assert_eq!(outer.add(&inner, 1, READ, LEVEL.exclusive()), Err(Error::Invalid));
    outer.add(&inner, 1, READ, LEVEL).unwrap();
}

#[test]
fn blocking_sockets_are_refused_edge_triggered() {
    let (unix, _peer) = UnixStream::pair().unwrap();
    let (tcp, _client) = tcp_pair();
    tcp.set_nonblocking(false).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sockets = [OwnedFd::from(unix), tcp.into(), listener.into(), udp.into()];
    let epoll = Epoll::new().unwrap();
    for socket in &sockets {
        for mode in [EDGE, EDGE.oneshot(), EDGE.exclusive()] {
            assert_eq!(epoll.add(socket, 1, READ, mode), Err(Error::BlockingEdge));
        }
        epoll.add(socket, 1, READ, LEVEL).unwrap();
        assert_eq!(epoll.modify(socket, 1, READ, EDGE), Err(Error::BlockingEdge));
        socket2::SockRef::from(socket).set_nonblocking(true).unwrap();
        epoll.modify(socket, 1, READ, EDGE).unwrap();
    }
}

#[test]
fn blocking_files_that_are_no_sockets_may_be_edge_triggered() {
    let (reader, writer) = io::pipe().unwrap();
    let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&reader, 1, READ, EDGE).unwrap();
    epoll.add(&writer, 2, WRITE, EDGE).unwrap();
    epoll.add(&waker, 3, READ, EDGE).unwrap();
    epoll.add(Epoll::new().unwrap(), 4, READ, EDGE).unwrap();
}

#[test]
fn a_proof_of_nonblocking_is_not_asked_again() {
    let (blocking, _theirs) = UnixStream::pair().unwrap();
    let epoll = Epoll::new().unwrap();
    let trusted = NonBlocking::trust(&blocking);
    epoll.add_nonblocking(&trusted, 1, WRITE, EDGE).unwrap();
    epoll.modify_nonblocking(&trusted, 2, WRITE, EDGE).unwrap();
    assert_eq!(now(&epoll), ["2:OUT"]);
    let refused = epoll.modify_nonblocking(&trusted, 2, WRITE, EDGE.exclusive());
    assert_eq!(refused, Err(Error::ExclusiveCombination));
}

#[test]
fn proofs_of_nonblocking_are_true() {
    let listener = NonBlocking::new(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    assert!(socket2::SockRef::from(&listener).nonblocking().unwrap());
    let refused = NonBlocking::accept(&listener).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);

    let client = TcpStream::connect(listener.get_ref().local_addr().unwrap()).unwrap();
    let (accepted, peer) = NonBlocking::accept(&listener).unwrap();
    assert_eq!(peer.as_socket(), client.local_addr().ok());
    assert!(accepted.get_ref().nonblocking().unwrap());
    assert!(is_close_on_exec(&accepted));
    let epoll = Epoll::new().unwrap();
    epoll.add(accepted.into_inner(), 1, READ, EDGE).unwrap();
}

/// Refusals that need a full system are made by a seccomp filter, which holds for one thread.
#[test]
fn refusals_of_a_full_system_have_their_own_errors() {
    let ctl = [
        (libc::ENOSPC, Error::WatchLimit),
        (libc::ENOMEM, Error::OutOfMemory),
        (libc::EACCES, Error::Other(libc::EACCES)),
    ];
    for (errno, expected) in ctl {
        let refusal = on_its_own_thread(move || {
            let (epoll, (ours, _theirs)) = (Epoll::new().unwrap(), nonblocking_pair());
            refuse_here(libc::SYS_epoll_ctl, errno);
            epoll.add(&ours, 1, READ, LEVEL).unwrap_err()
        });
        assert_eq!((refusal, refusal.errno()), (expected, errno));
    }
    let create = [
        (libc::EMFILE, Error::TooManyFiles),
        (libc::ENFILE, Error::TooManyFilesInSystem),
        (libc::ENOMEM, Error::OutOfMemory),
    ];
    for (errno, expected) in create {
        let refusal = on_its_own_thread(move || {
            refuse_here(libc::SYS_epoll_create1, errno);
            Epoll::new().unwrap_err()
        });
        assert_eq!((refusal, refusal.errno()), (expected, errno));
    }
}

#[test]
fn without_descriptors_new_says_too_many_files() {
    in_a_child("without_descriptors_new_says_too_many_files", || {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
        let mut epolls = Vec::new();
        let refusal = loop {
            match Epoll::new() {
                Ok(epoll) => epolls.push(epoll),
                Err(error) => break error,
            }
        };
        assert_eq!(refusal, Error::TooManyFiles);
        assert!(epolls.len() < 64);
    });
}

#[test]
fn each_message_is_one_line_and_survives_in_an_io_error() {
    let all = [
        (Error::AlreadyRegistered, "modify"),
        (Error::NotRegistered, "add"),
        (Error::NotPollable, "directly"),
        (Error::Invalid, "delete and add"),
        (Error::Loop, "nest at most 5"),
        (Error::WatchLimit, "/proc/sys/fs/epoll/max_user_watches"),
        (Error::BadDescriptor, "O_PATH"),
        (Error::OutOfMemory, "free some"),
        (Error::TooManyFiles, "ulimit -n"),
        (Error::TooManyFilesInSystem, "/proc/sys/fs/file-max"),
        (Error::BlockingEdge, "O_NONBLOCK"),
        (Error::ExclusiveCombination, "drop READ_CLOSED"),
        (Error::Other(libc::EACCES), "Permission denied"),
    ];
    for (error, advice) in all {
        let message = error.to_string();
        assert!(message.contains(advice) && !message.contains('\n'), "{message}");
        let wrapped = io::Error::from(error);
        assert_eq!(wrapped.kind(), io::Error::from_raw_os_error(error.errno()).kind());
        assert_eq!(wrapped.to_string(), message);
        let inside = wrapped.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        assert_eq!(inside, Some(&error));
    }
}

// ---- waiting: batches, time, signals ----------------------------------------------------------------

#[test]
fn a_batch_holds_no_more_than_the_buffer_and_the_next_one_has_the_rest() {
    let pairs: Vec<_> = (0..3).map(|_| nonblocking_pair()).collect();
    let epoll = Epoll::new().unwrap();
    for (token, (ours, _)) in (0..).zip(&pairs) {
        epoll.add(ours, token, WRITE, EDGE).unwrap();
    }
    let mut events = Events::with_capacity(2);
    assert_eq!(epoll.wait(&mut events, Timeout::Now), Ok(2));
    assert!(events.is_full() && events.len() == 2 && events.capacity() == 2);
    assert_eq!(data(&events), [0, 1]);
    assert_eq!(epoll.wait(&mut events, Timeout::Now), Ok(1));
    assert!(!events.is_full() && !events.is_empty());
    assert_eq!(data(&events), [2]);
    assert_eq!(events.get(0).map(|event| event.data()), Some(2));
    assert!(events.get(1).is_none(), "what the last batch left behind is out of reach");
    assert_eq!(epoll.wait(&mut events, Timeout::Now), Ok(0));
    assert!(events.is_empty() && events.get(0).is_none());
}

#[test]
fn a_buffer_has_room_for_at_least_one_event() {
    assert_eq!(Events::with_capacity(0).capacity(), 1);
}

#[test]
fn the_biggest_batch_is_what_the_kernel_takes() {
    let epoll = Epoll::new().unwrap();
    let ask = |most: usize| {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let most = i32::try_from(most).unwrap();
        // SAFETY: nothing is registered, so the kernel writes nothing to the one entry there is.
        unsafe { libc::epoll_wait(epoll.as_fd().as_raw_fd(), &raw mut event, most, 0) }
    };
    assert_eq!((ask(Events::MOST), ask(Events::MOST + 1)), (0, -1));
}

#[test]
fn a_forgotten_delete_gives_a_dead_token_and_nothing_worse() {
    let (epoll, reader, mut writer) = watched_pipe(READ, LEVEL);
    let duplicate = reader.try_clone().unwrap();
    close(reader);
    writer.write_all(b"x").unwrap();
    assert_eq!(now(&epoll), ["7:IN"], "the duplicate keeps the registration alive");
    assert_eq!(epoll.delete(&duplicate), Err(Error::NotRegistered));
    close(duplicate);
    assert_eq!(now(&epoll), [""; 0]);
}

#[test]
fn no_events_after_delete() {
    let (epoll, reader, mut writer) = watched_pipe(READ, LEVEL);
    writer.write_all(b"x").unwrap();
    epoll.delete(&reader).unwrap();
    assert_eq!(now(&epoll), [""; 0]);
    epoll.add(&reader, 8, READ, EDGE).unwrap();
    assert_eq!(now(&epoll), ["8:IN"]);
}

#[test]
fn a_signal_gives_an_empty_batch() {
    extern "C" fn nothing(_: libc::c_int) {}
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let handler = SigHandler::Handler(nothing);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing at all.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();

    for timeout in [Timeout::Never, Timeout::After(Duration::from_nanos(3_600_000_000_001))] {
        static DONE: AtomicBool = AtomicBool::new(false);
        DONE.store(false, Ordering::SeqCst);
        let waiter = thread::spawn(move || {
            let (ours, _theirs) = nonblocking_pair();
            let epoll = Epoll::new().unwrap();
            epoll.add(&ours, 7, WRITE, EDGE).unwrap();
            let mut events = Events::with_capacity(4);
            assert_eq!(epoll.wait(&mut events, Timeout::Now), Ok(1));
            let interrupted = epoll.wait(&mut events, timeout);
            DONE.store(true, Ordering::SeqCst);
            (interrupted, events.len(), events.get(0).is_none())
        });
        // Again and again: the first ones may come before the thread waits.
        while !DONE.load(Ordering::SeqCst) {
            let thread = waiter.as_pthread_t();
            // SAFETY: the thread is not joined yet, so its handle is valid.
            let sent = unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            assert_eq!(sent, 0);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waiter.join().unwrap(), (Ok(0), 0, true));
    }
}

#[test]
fn no_wait_ends_before_its_time() {
    let times = [1, 999, 100_000, 999_999, 1_000_000, 1_000_001, 1_500_000, 5_000_000];
    for nanos in times {
        assert_lasts_at_least(Duration::from_nanos(nanos), Duration::from_nanos(nanos));
    }
}

#[test]
fn finer_waits_than_a_millisecond_are_possible() {
    if !kernel_has_pwait2() {
        return;
    }
    // A busy machine may be late now and then, but not every time.
    let deadline = Instant::now() + Duration::from_secs(20);
    while lasted(Duration::from_micros(50)) >= Duration::from_millis(1) {
        assert!(Instant::now() < deadline, "no wait of 50 µs took less than a millisecond");
    }
}

#[test]
fn waits_survive_a_kernel_without_pwait2() {
    pwait2_refused("waits_survive_a_kernel_without_pwait2", libc::ENOSYS);
}

#[test]
fn waits_survive_a_filter_that_forbids_pwait2() {
    pwait2_refused("waits_survive_a_filter_that_forbids_pwait2", libc::EPERM);
}

/// In a child, because the refusal is remembered for the whole process.
fn pwait2_refused(test: &str, errno: i32) {
    in_a_child(test, || {
        on_its_own_thread(move || {
            refuse_here(libc::SYS_epoll_pwait2, errno);
            for nanos in [1, 200_000, 999_999] {
                assert_lasts_at_least(Duration::from_nanos(nanos), Duration::from_millis(1));
            }
            assert_lasts_at_least(Duration::from_nanos(1_000_001), Duration::from_millis(2));
            let (ours, _theirs) = nonblocking_pair();
            let epoll = Epoll::new().unwrap();
            epoll.add(&ours, 7, WRITE, LEVEL).unwrap();
            let mut events = Events::with_capacity(4);
            let fine = Timeout::After(Duration::from_nanos(1_500_001));
            assert_eq!(epoll.wait(&mut events, fine), Ok(1));
        });
        // This thread may call it, but it is not tried again: milliseconds, rounded up.
        assert_lasts_at_least(Duration::from_micros(50), Duration::from_millis(1));
    });
}

#[test]
fn now_takes_what_is_ready_and_never_means_until_something_comes() {
    let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&waker, 7, READ, EDGE).unwrap();
    let mut events = Events::with_capacity(4);
    for timeout in [Timeout::Now, Duration::ZERO.into(), Some(Duration::ZERO).into()] {
        assert_eq!(epoll.wait(&mut events, timeout), Ok(0));
    }
    for timeout in [Timeout::Never, None.into(), Duration::MAX.into()] {
        thread::scope(|scope| {
            scope.spawn(|| waker.write(1).unwrap());
            assert_eq!(epoll.wait(&mut events, timeout), Ok(1));
        });
    }
}

#[test]
fn timeouts_beyond_the_kernels_reach_are_cut_not_refused() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, WRITE, LEVEL).unwrap();
    let mut events = Events::with_capacity(4);
    let longest = Duration::from_millis(i32::MAX as u64);
    let nano = Duration::from_nanos(1);
    for duration in [longest - nano, longest, longest + nano, Duration::MAX - nano, Duration::MAX] {
        assert_eq!(epoll.wait(&mut events, duration.into()), Ok(1), "{duration:?}");
    }
}

#[test]
fn a_registration_made_by_another_thread_wakes_a_waiter() {
    let (ours, _theirs) = nonblocking_pair();
    let epoll = Epoll::new().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| soon(&epoll));
        epoll.add(&ours, 7, WRITE, LEVEL).unwrap();
        assert_eq!(waiter.join().unwrap(), ["7:OUT"]);
    });
}

#[test]
fn an_epoll_is_readable_while_an_event_is_queued_and_closes_on_exec() {
    let (outer, (inner, _reader, mut writer)) = (Epoll::new().unwrap(), watched_pipe(READ, LEVEL));
    outer.add(&inner, 1, READ, LEVEL).unwrap();
    assert_eq!(now(&outer), [""; 0]);
    writer.write_all(b"x").unwrap();
    assert_eq!(now(&outer), ["1:IN"]);
    assert!(is_close_on_exec(&outer));
}

#[test]
fn names_are_those_of_the_manual() {
    assert_eq!(format!("{:?}", READ | Interest::READ_CLOSED), "Interest(IN|RDHUP)");
    assert_eq!(format!("{:?}", Interest::NONE), "Interest(0)");
    assert_eq!(format!("{LEVEL:?} {EDGE:?}"), "Mode(LEVEL) Mode(ET)");
    let mode = EDGE.oneshot().exclusive().wakeup();
    assert_eq!(format!("{mode:?}"), "Mode(EXCLUSIVE|WAKEUP|ONESHOT|ET)");
    assert_eq!(format!("{:?}", LEVEL.oneshot()), "Mode(LEVEL|ONESHOT)");
    assert_eq!(format!("{:?}", data_and_fin()), "Event(IN|OUT|RDHUP, data: 0x7)");
}

#[test]
fn interests_are_sets() {
    let both = READ | WRITE;
    assert!(both.contains(READ) && both.contains(Interest::NONE) && !READ.contains(both));
    assert_eq!(both.without(READ), WRITE);
    assert_eq!(WRITE.without(both), Interest::NONE);
    let mut grown = Interest::default();
    grown |= READ;
    assert_eq!(grown, READ);
}

// ---- sys::net ---------------------------------------------------------------------------------------

#[test]
fn recv_append_keeps_what_is_there_and_takes_at_most_what_was_asked() {
    let (ours, mut theirs) = nonblocking_pair();
    theirs.write_all(b"0123456789").unwrap();
    let mut buffer = Vec::with_capacity(1000);
    buffer.extend_from_slice(b"kept ");
    assert_eq!(net::recv_append(&ours, &mut buffer, 4).unwrap(), 4);
    assert_eq!(buffer, b"kept 0123");
    assert_eq!(net::recv_append(&ours, &mut buffer, 5000).unwrap(), 6);
    assert_eq!(buffer, b"kept 0123456789");
    let empty = net::recv_append(&ours, &mut buffer, 5000).unwrap_err();
    assert_eq!(empty.raw_os_error(), Some(libc::EAGAIN));
    close(theirs);
    assert_eq!(net::recv_append(&ours, &mut buffer, 5000).unwrap(), 0);
    assert_eq!(buffer, b"kept 0123456789");
}

#[test]
fn recv_append_refuses_to_grow_beyond_memory_and_leaves_the_buffer_alone() {
    let (ours, _theirs) = nonblocking_pair();
    let mut buffer = b"kept".to_vec();
    let refused = net::recv_append(&ours, &mut buffer, usize::MAX).unwrap_err();
    assert_eq!((refused.raw_os_error(), &buffer[..]), (Some(libc::ENOMEM), &b"kept"[..]));
}

#[test]
fn recv_slice_fills_the_slice_and_tells_the_end() {
    let (ours, theirs) = nonblocking_pair();
    net::send(&theirs, b"abcdef").unwrap();
    let mut slice = [0; 4];
    assert_eq!(net::recv_slice(&ours, &mut slice).unwrap(), 4);
    assert_eq!(&slice, b"abcd");
    assert_eq!(net::recv_slice(&ours, &mut slice).unwrap(), 2);
    let empty = net::recv_slice(&ours, &mut slice).unwrap_err();
    assert_eq!(empty.raw_os_error(), Some(libc::EAGAIN));
    close(theirs);
    assert_eq!(net::recv_slice(&ours, &mut slice).unwrap(), 0);
}

#[test]
fn sending_to_a_peer_that_went_is_an_error_and_no_signal() {
    in_a_child("sending_to_a_peer_that_went_is_an_error_and_no_signal", || {
        use nix::sys::signal::{SigHandler, Signal, signal};
        // SAFETY: no handler of ours is installed; Rust ignores SIGPIPE, and here it must kill.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
        let (ours, theirs) = nonblocking_pair();
        close(theirs);
        let refused = net::send(&ours, b"x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPIPE));
        let refused = net::send_vectored(&ours, &[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPIPE));
    });
}

#[test]
fn more_pieces_than_the_kernel_takes_are_a_short_send() {
    let (ours, theirs) = nonblocking_pair();
    let pieces = [IoSlice::new(b"ab"); 1500];
    assert_eq!(net::send_vectored(&ours, &pieces).unwrap(), 2048);
    let mut received = Vec::new();
    assert_eq!(net::recv_append(&theirs, &mut received, 4096).unwrap(), 2048);
    assert!(received.chunks(2).all(|pair| pair == b"ab"));
}

#[test]
fn a_full_socket_takes_a_part_and_then_says_again() {
    let (ours, _theirs) = nonblocking_pair();
    let much = vec![0; 8 << 20];
    let taken = net::send(&ours, &much).unwrap();
    assert!(taken > 0 && taken < much.len());
    assert_eq!(net::send(&ours, &much).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
}

#[test]
fn queued_bytes_are_counted_on_both_sides() {
    let (ours, theirs) = nonblocking_pair();
    assert_eq!((net::unread_bytes(&ours).unwrap(), net::unsent_bytes(&theirs).unwrap()), (0, 0));
    net::send(&theirs, b"12345").unwrap();
    assert_eq!(net::unread_bytes(&ours).unwrap(), 5);
    assert!(net::unsent_bytes(&theirs).unwrap() >= 5);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = net::unread_bytes(&listener).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
}

// ---- helpers ----------------------------------------------------------------------------------------

fn nonblocking_pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// A connection over loopback; the first end, the accepted one, is non-blocking.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// A pipe whose reading end is registered with data 7.
fn watched_pipe(interest: Interest, mode: Mode) -> (Epoll, PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&reader, 7, interest, mode).unwrap();
    (epoll, reader, writer)
}

#[track_caller]
fn batch(epoll: &Epoll, timeout: Timeout) -> Vec<String> {
    let mut events = Events::with_capacity(8);
    let count = epoll.wait(&mut events, timeout).unwrap();
    assert_eq!(count, events.len());
    events.iter().map(|event| format!("{}:{}", event.data(), event.names())).collect()
}

/// What is ready at this moment, as "data:NAMES".
#[track_caller]
fn now(epoll: &Epoll) -> Vec<String> {
    batch(epoll, Timeout::Now)
}

/// What comes first, as "data:NAMES".
#[track_caller]
fn soon(epoll: &Epoll) -> Vec<String> {
    batch(epoll, PATIENCE)
}

#[track_caller]
fn one_event(epoll: &Epoll) -> Event {
    let mut events = Events::with_capacity(8);
    assert_eq!(epoll.wait(&mut events, PATIENCE), Ok(1));
    events.get(0).unwrap()
}

fn data(events: &Events) -> Vec<u64> {
    events.into_iter().map(|event| event.data()).collect()
}

/// IN|OUT|RDHUP
fn data_and_fin() -> Event {
    let (ours, mut theirs) = nonblocking_pair();
    theirs.write_all(b"x").unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, READ | WRITE | Interest::READ_CLOSED, EDGE).unwrap();
    one_event(&epoll)
}

/// IN|OUT|ERR|HUP|RDHUP
fn reset() -> Event {
    let (ours, theirs) = tcp_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, Interest::NONE, EDGE).unwrap();
    socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
    close(theirs);
    one_event(&epoll)
}

/// PRI
fn urgent() -> Event {
    let (ours, theirs) = tcp_pair();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ours, 7, Interest::PRIORITY, EDGE).unwrap();
    socket2::SockRef::from(&theirs).send_out_of_band(b"!").unwrap();
    one_event(&epoll)
}

/// OUT|ERR
fn broken_pipe() -> Event {
    let (reader, writer) = io::pipe().unwrap();
    close(reader);
    let epoll = Epoll::new().unwrap();
    epoll.add(&writer, 7, WRITE, EDGE).unwrap();
    one_event(&epoll)
}

fn has_priority(socket: &TcpStream) -> bool {
    let epoll = Epoll::new().unwrap();
    epoll.add(socket, 7, Interest::PRIORITY, LEVEL).unwrap();
    now(&epoll) == ["7:PRI"]
}

/// The mask of the only registration, from /proc.
#[track_caller]
fn registered_mask(epoll: &Epoll) -> u32 {
    let path = format!("/proc/self/fdinfo/{}", epoll.as_fd().as_raw_fd());
    let info = fs::read_to_string(path).unwrap();
    let line = info.lines().find(|line| line.starts_with("tfd:")).unwrap();
    let mask = line.split_whitespace().skip_while(|word| *word != "events:").nth(1).unwrap();
    u32::from_str_radix(mask, 16).unwrap()
}

/// What the kernel says to a mask that the wrapper refuses.
fn raw_add(epoll: &Epoll, fd: impl AsFd, interest: Interest, mode: Mode) -> Result<(), i32> {
    let events = interest.bits() | mode.bits();
    let mut event = libc::epoll_event { events, u64: 0 };
    let (epoll, fd) = (epoll.as_fd().as_raw_fd(), fd.as_fd().as_raw_fd());
    // SAFETY: the kernel reads one event from our stack.
    match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

fn is_close_on_exec(fd: impl AsFd) -> bool {
    // SAFETY: F_GETFD touches no memory.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFD) };
    flags & libc::FD_CLOEXEC != 0
}

fn lasted(duration: Duration) -> Duration {
    let epoll = Epoll::new().unwrap();
    let mut events = Events::with_capacity(1);
    let start = Instant::now();
    assert_eq!(epoll.wait(&mut events, duration.into()), Ok(0));
    start.elapsed()
}

#[track_caller]
fn assert_lasts_at_least(duration: Duration, least: Duration) {
    for _ in 0..5 {
        let lasted = lasted(duration);
        assert!(lasted >= least, "a wait of {duration:?} ended after {lasted:?}");
    }
}

fn kernel_has_pwait2() -> bool {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: -1 is no descriptor, so the kernel looks at nothing else.
    let answer = unsafe { libc::syscall(libc::SYS_epoll_pwait2, -1_i64, null, 1_i64, null, null, 8_i64) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

fn on_its_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(work).join().unwrap()
}

/// From here on, `syscall` answers `errno` on this thread.
#[track_caller]
fn refuse_here(syscall: libc::c_long, errno: i32) {
    const NUMBER: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, NUMBER),
        step((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, syscall as u32),
        step((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives on this stack, during the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter), 0);
    }
}

/// Held while a child starts and runs. Until its exec, a child has a copy of every descriptor, and what
/// is closed meanwhile stays open: end of stream and hang-up came late by that, now and then.
static A_CHILD_RUNS: Mutex<()> = Mutex::new(());

/// Closes `last` when no child can have a copy of it.
fn close<T>(last: T) {
    let _no_child = A_CHILD_RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    drop(last);
}

/// Runs `work` in a process of its own: the test of this name, called again with a mark.
#[track_caller]
fn in_a_child(test: &str, work: impl FnOnce()) {
    const MARK: &str = "EAGAIN_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return work();
    }
    let _alone = A_CHILD_RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    let output = command.args([test, "--exact", "--nocapture"]).env(MARK, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complaint}");
}

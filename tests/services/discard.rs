//! Discard (RFC 863): whatever comes is thrown away, nothing is answered.

use crate::common::*;

in_every_model! {
    ten_megabytes_are_swallowed_without_an_answer,
    a_half_close_is_answered_by_the_end,
    a_reset_is_survived,
}

fn ten_megabytes_are_swallowed_without_an_answer(setup: Setup) {
    let server = setup.serve(&["--discard", ANY]);
    server.wait_until_at_rest();
    let fds = server.fd_count();
    let client = connect(server.addr("discard"));
    send(&client, &pattern(10_000_000, 1));
    server.wait_until_at_rest();
    expect_silence(&client);
    half_close(&client);
    expect_to_end(&client, b"");
    drop(client);
    server.wait_for_fd_count(fds);
}

fn a_half_close_is_answered_by_the_end(setup: Setup) {
    let server = setup.serve(&["--discard", ANY]);
    for bytes in [&b""[..], b"x", b"some text\r\n"] {
        let client = connect(server.addr("discard"));
        send(&client, bytes);
        half_close(&client);
        expect_to_end(&client, b"");
    }
}

fn a_reset_is_survived(setup: Setup) {
    let mut server = setup.serve(&["--discard", ANY]);
    server.wait_until_at_rest();
    let fds = server.fd_count();
    for length in [0, 1, 1_000_000] {
        let client = connect(server.addr("discard"));
        send(&client, &pattern(length, 2));
        rst(client);
    }
    server.wait_for_fd_count(fds);
    server.assert_running();
}

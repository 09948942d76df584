//! smoke
#![cfg(feature = "cli")]
mod common;
use common::*;
in_every_setup! { smoke }
fn smoke(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--frames=127.0.0.1:0"]);
    let fds = server.fd_count();
    let client = connect(server.addr("echo"));
    exchange(&client, &pattern(10_000_000, 1));
    half_close(&client);
    expect_to_end(&client, b"");
    drop(client);
    server.wait_for_fd_count(fds);
    server.wait_until_idle();
    let f = connect(server.addr("frames"));
    send(&f, &frame(b"hello"));
    expect(&f, &frame(b"hello"));
    rst(f);
    server.wait_for_fd_count(fds);
    server.assert_running();
    assert!(server.rss() > 0);
    assert!(server.terminate().success());
}

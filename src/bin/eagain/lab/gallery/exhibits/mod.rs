//! The exhibits, each a file with two servers: `broken` and `repaired` are written in the same shape, so that what
//! differs is the lesson. Comments say WRONG and RIGHT where that is.

mod blocking_under_edge;
mod close_without_delete;
mod descriptor_as_identity;
mod emfile_spin;
mod hup_branch_last;
mod mask_compared;
mod no_branch_for_the_end;
mod no_budget;
mod one_accept_per_edge;
mod one_recv_per_edge;
mod queue_without_bound;
mod recv_is_a_message;
mod reset_ends_the_server;
mod send_result_ignored;
mod slow_answer;
mod timeout_cut_down;
mod write_interest_kept;

use std::io;

use super::crowd::{Crowd, Rest};
use super::{Exhibit, Seen, fine, wrong};

/// From what is seen at once to what is seen in the third month.
pub(super) static ALL: &[&Exhibit] = &[
    &one_accept_per_edge::EXHIBIT,
    &one_recv_per_edge::EXHIBIT,
    &blocking_under_edge::EXHIBIT,
    &recv_is_a_message::EXHIBIT,
    &send_result_ignored::EXHIBIT,
    &slow_answer::EXHIBIT,
    &no_budget::EXHIBIT,
    &queue_without_bound::EXHIBIT,
    &reset_ends_the_server::EXHIBIT,
    &mask_compared::EXHIBIT,
    &hup_branch_last::EXHIBIT,
    &no_branch_for_the_end::EXHIBIT,
    &write_interest_kept::EXHIBIT,
    &timeout_cut_down::EXHIBIT,
    &close_without_delete::EXHIBIT,
    &emfile_spin::EXHIBIT,
    &descriptor_as_identity::EXHIBIT,
];

/// Traffic of two exhibits: what the server still has of clients that are gone.
fn five_resets(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    crowd.rest()?;
    let before = crowd.open_files()?;
    for _ in 0..5 {
        let client = crowd.client()?;
        if !client.is_echoed(b"hello")? {
            return Ok(wrong("a client was not answered"));
        }
        client.reset()?;
    }
    if crowd.rest()? != Rest::Asleep {
        return Ok(wrong("without clients the server does not sleep"));
    }
    let left = crowd.open_files()?.saturating_sub(before);
    let words = format!("of 5 clients that are gone, {left} sockets are still open");
    Ok(if left == 0 { fine(words) } else { wrong(words) })
}

/// Traffic of two exhibits, its end: nobody is there, so there is nothing to do.
fn rests_without_clients(crowd: &Crowd) -> io::Result<Seen> {
    Ok(match crowd.rest()? {
        Rest::Asleep => fine("when the client has left the server sleeps"),
        Rest::Spinning => wrong("when the client has left the server spends all of its processor's time on it"),
        Rest::Ended => wrong("the server has ended"),
    })
}

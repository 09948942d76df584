//! Counters: plain numbers that a worker counts in, and the copy that other threads read.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has happened since the start.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters of one worker, as of the end of its last turn. Written by that worker alone.
        #[derive(Debug, Default)]
        pub(crate) struct Published {
            $($name: AtomicU64,)*
        }

        impl Published {
            /// Each number is right by itself; together they may be of two turns.
            pub(crate) fn store(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
            }

            pub(crate) fn load(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

impl Counters {
    /// Connections that came, whether they were let in or not.
    pub(crate) const fn came(&self) -> u64 {
        self.accepted + self.denied + self.over_connections + self.over_per_ip + self.over_rate + self.over_buffered
    }
}

counters! {
    /// Connections accepted.
    accepted,
    /// Of those, connections that are over.
    closed,
    /// Connections that came and were closed at once, for want of memory or of room.
    refused,
    /// Connections that the [`AccessList`](crate::AccessList) is against, and that were closed at once. They are not
    /// counted as accepted; nor are the following.
    denied,
    /// As many connections as there may be.
    over_connections,
    /// As many from their address as there may be.
    over_per_ip,
    /// More in a second than there may be.
    over_rate,
    /// While all connections together kept as much as they may.
    over_buffered,
    /// Connections closed because the client took too long.
    timed_out,
    /// Times that a listener had to rest for want of descriptors or memory.
    accept_pauses,
    /// Bytes received.
    received_bytes,
    /// Bytes sent.
    sent_bytes,
    /// Calls of `epoll_wait`.
    waits,
    /// Events that they returned.
    events,
    /// Events for connections that were closed already.
    stale_events,
    /// Messages of other threads for connections that were gone.
    undelivered,
}

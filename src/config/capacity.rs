//! How many clients the open-file limit has room for.

/// Most clients that `--max-clients` takes: far above any machine, and below the largest count that
/// tokio's semaphores hold.
pub(super) const CLIENTS_CEILING: usize = 100_000_000;

/// Where the open-file limit allows no more clients than this, it was hardly meant to.
pub(super) const CLIENTS_FEW: usize = 32;

/// Descriptors kept back from clients: listeners, the log, the runtime's own, and connections that
/// are being refused or closed.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Connections of the admin server at a time, for which descriptors are kept back from clients. One more
/// takes the place of the oldest that is not there to watch, once that has had its turn.
pub(crate) const ADMIN_CONNECTIONS_MAX: usize = 32;

/// Descriptors kept back for the admin server: its connections, its socket, and its runtime.
const ADMIN_DESCRIPTORS_RESERVED: u64 = ADMIN_CONNECTIONS_MAX as u64 + 8;

/// How many clients an open-file limit, in descriptors, has room for, beside an admin server if
/// there is one; at least 1.
pub(super) fn clients_that_fit(open_files: u64, admin: bool) -> usize {
    let reserved = match admin {
        true => DESCRIPTORS_RESERVED + ADMIN_DESCRIPTORS_RESERVED,
        false => DESCRIPTORS_RESERVED,
    };
    let clients = open_files.saturating_sub(reserved);
    usize::try_from(clients)
        .unwrap_or(usize::MAX)
        .clamp(1, CLIENTS_CEILING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_fit_into_the_open_files_less_a_reserve() {
        for (open_files, clients) in [
            (0, 1),
            (64, 1),
            (65, 1),
            (66, 2),
            (1024, 960),
            (u64::MAX, CLIENTS_CEILING),
        ] {
            assert_eq!(clients_that_fit(open_files, false), clients, "{open_files}");
        }
    }
}

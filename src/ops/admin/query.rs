//! The query of a list: which rows, and in which order.

use crate::wire::channel::{ChannelName, InvalidChannelName};

/// Rows of a list in one answer: if not asked for, and at most.
const ROWS: (usize, usize) = (100, 1000);

/// What a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) page: Page,
    pub(super) order: Order,
    /// The channel whose rows are asked for; `None` for those of all.
    pub(super) channel: Option<ChannelName>,
}

/// In which order clients are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As they came.
    Id,
    /// Who is furthest behind comes first.
    Behind,
}

/// Which rows of a list are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) offset: usize,
    pub(super) limit: usize,
}

impl Query {
    /// Reads a query of a list that is `ordered`, or is not.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub(super) fn read(query: &str, ordered: bool) -> Result<Query, String> {
        let mut read = Query {
            page: Page {
                offset: 0,
                limit: ROWS.0,
            },
            order: Order::Id,
            channel: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (key, value) {
                ("offset", _) => {
                    read.page.offset = value
                        .parse()
                        .map_err(|_| "offset takes a number\n".to_owned())?;
                }
                ("limit", _) => {
                    let limit = value.parse().ok();
                    read.page.limit = limit
                        .filter(|limit| (1..=ROWS.1).contains(limit))
                        .ok_or(format!("limit takes a number from 1 to {}\n", ROWS.1))?;
                }
                ("channel", _) => {
                    // No character of a name is ever escaped in a query.
                    let name = value.parse();
                    let name = name.map_err(|allowed: InvalidChannelName| {
                        format!("channel takes a name: {allowed}\n")
                    });
                    read.channel = Some(name?);
                }
                ("sort", "id") if ordered => read.order = Order::Id,
                ("sort", "behind") if ordered => read.order = Order::Behind,
                ("sort", _) if ordered => return Err("sort takes id or behind\n".to_owned()),
                _ => {
                    let known = if ordered {
                        "offset, limit, channel and sort"
                    } else {
                        "offset, limit and channel"
                    };
                    return Err(format!("there is only {known}\n"));
                }
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_or_explained() {
        let page = |offset, limit| Page { offset, limit };
        for (query, (page, order, channel)) in [
            ("", (page(0, 100), Order::Id, None)),
            ("limit=1000&offset=7", (page(7, 1000), Order::Id, None)),
            ("sort=behind", (page(0, 100), Order::Behind, None)),
            ("sort=id&&limit=1", (page(0, 1), Order::Id, None)),
            (
                "channel=a.b_c-1&limit=2",
                (page(0, 2), Order::Id, Some("a.b_c-1")),
            ),
        ] {
            let channel = channel.map(|name| name.parse().unwrap());
            let expected = Query {
                page,
                order,
                channel,
            };
            assert_eq!(Query::read(query, true), Ok(expected), "{query}");
        }
        let no_name = "channel takes a name: 1 to 64 of A-Z a-z 0-9 . _ -, and neither . nor ..\n";
        for (query, ordered, expected) in [
            ("limit=0", true, "limit takes a number from 1 to 1000\n"),
            ("limit=1001", true, "limit takes a number from 1 to 1000\n"),
            ("limit", true, "limit takes a number from 1 to 1000\n"),
            ("offset=-1", true, "offset takes a number\n"),
            ("sort=x", true, "sort takes id or behind\n"),
            (
                "page=1",
                true,
                "there is only offset, limit, channel and sort\n",
            ),
            (
                "sort=id",
                false,
                "there is only offset, limit and channel\n",
            ),
            ("channel", true, no_name),
            ("channel=..", true, no_name),
            ("channel=a%20b", false, no_name),
        ] {
            let wrong = Query::read(query, ordered);
            assert_eq!(wrong, Err(expected.into()), "{query}");
        }
    }
}

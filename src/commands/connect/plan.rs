//! What the options ask for, understood before anything is done.

use std::io::{self, IsTerminal};
use std::mem;

use zeroize::Zeroizing;

use super::prompt;
use crate::config::cli::{ConnectArgs, read_token};
use crate::config::{self, Address, words};
use crate::net::tls_client::TlsConnector;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::hello::{self, Hello};

/// Task of the command.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) address: Address,
    /// `None` for plain bytes.
    pub(super) tls: Option<TlsConnector>,
    /// The line, without its LF, that each connection begins with; empty for none.
    pub(super) hello: Zeroizing<Vec<u8>>,
    /// Channel that is asked for; `None` for the listener's.
    pub(super) channel: Option<ChannelName>,
    /// Whether the input waits for the answer to the hello: by a listener that takes none, it would go
    /// to others than it is meant for, and nothing would show that it did.
    pub(super) awaits_answer: bool,
    /// Whether to connect again when the connection could not be made or is gone.
    pub(super) retry: bool,
    pub(super) finish: Finish,
}

/// Event that the command waits for after the input has ended and all of it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The server closes. What comes in until then goes out.
    Closed,
    /// The server has taken everything, which it says by closing; or its machine has, for long enough.
    Taken,
    /// The server has taken everything, or a person has waited long enough for that.
    Left,
}

impl Plan {
    /// Understands what was typed.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub(super) fn of(args: &ConnectArgs) -> Result<Plan, String> {
        let address = args.address.as_deref().unwrap_or(config::LISTEN);
        let address: Address = address.parse().map_err(|wrong| format!("{wrong}"))?;
        if matches!(address, Address::Tcp { port: 0, .. }) {
            return Err(format!("'{address}' has port 0, where nobody listens"));
        }
        if args.interactive && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Err("--interactive: standard input and output are no terminal".to_owned());
        }
        let goes_on = args.listen_only || args.resume || args.session.is_some();
        let retry = match &args.retry {
            Some(text) => words::parse_bool(text).map_err(|wrong| format!("--retry: {wrong}"))?,
            None => goes_on || io::stdin().is_terminal(),
        };
        let finish = match () {
            () if args.interactive => Finish::Left,
            () if args.send_only => Finish::Taken,
            () if !args.plain && !args.listen_only && prompt::is_wanted() => Finish::Left,
            () => Finish::Closed,
        };
        // Nothing of what comes is shown then.
        let for_answer = finish == Finish::Taken;
        let token = read_token(args.token_file.as_deref())?;
        let token = token.as_ref().map(|token| token.as_str());
        let mut hello = args.hello_line(for_answer, token)?;
        let said = |line: &Zeroizing<String>| hello::parse(line.as_bytes()).ok();
        let said: Hello = hello.as_ref().and_then(said).unwrap_or_default();
        let is_raw = said.format == Some(Format::Raw);
        Ok(Plan {
            tls: TlsConnector::load(&args.tls, &address)?,
            address,
            awaits_answer: args.resume || for_answer && hello.is_some() && !is_raw,
            hello: hello.as_mut().map_or_else(Zeroizing::default, |line| {
                Zeroizing::new(mem::take(&mut **line).into_bytes())
            }),
            channel: said.channel,
            retry,
            finish,
        })
    }

    /// The hello of a connection, with its LF and these words at the end; empty for none.
    pub(super) fn hello(&self, words: &str) -> Zeroizing<Vec<u8>> {
        let bytes = self.hello.len() + words.len() + 1;
        // As long as it becomes: no copy of a token is left behind where it grew.
        let mut hello = Zeroizing::new(Vec::with_capacity(bytes));
        if !self.hello.is_empty() {
            hello.extend_from_slice(&self.hello);
            hello.extend_from_slice(words.as_bytes());
            hello.push(b'\n');
        }
        hello
    }
}

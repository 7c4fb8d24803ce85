//! Asking the admin server of a daemon.

use std::io;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::Address;
use crate::ops::admin::documents::Status;

/// How long the daemon may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// More than any status has, in bytes: what answers may be something else.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The status, as text and as what it says.
///
/// # Errors
/// No daemon answers there, or what answers is none.
pub(super) async fn status(address: &Address) -> anyhow::Result<(String, Status)> {
    let asked = timeout(ANSWER_TIME, ask(address));
    let text = match asked.await {
        Ok(text) => text?,
        Err(_) => bail!(
            "the daemon at {address} does not answer within {}s",
            ANSWER_TIME.as_secs()
        ),
    };
    let status = serde_json::from_str(&text);
    let status = status.with_context(|| format!("what answers at {address} is no linehub"))?;
    Ok((text, status))
}

async fn ask(address: &Address) -> anyhow::Result<String> {
    let nobody = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            anyhow!("no permission to ask the daemon at {address}: {error}")
        }
        _ => anyhow!("no daemon answers at {address}: {error}; is one running with --admin?"),
    };
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await;
            get(stream.map_err(nobody)?, address).await
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            get(stream.map_err(nobody)?, address).await
        }
    }
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: &Address,
) -> anyhow::Result<String> {
    let failed = || format!("{address} does not speak HTTP as a daemon's admin address does");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .with_context(failed)?;
    // It ends with the answer, whose outcome is all there is to know.
    tokio::spawn(connection);
    let host = match address {
        Address::Tcp { .. } => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    };
    let request = Request::get("/status")
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(failed)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(anyhow::Error::from_boxed);
    let body = body.with_context(failed)?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    ensure!(
        status == StatusCode::OK,
        "{address} answers with {status}: {}",
        text.lines().next().unwrap_or_default()
    );
    Ok(text)
}

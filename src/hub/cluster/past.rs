//! What the stream of a channel has of the past, by number.
//!
//! Checkpoints say which number is behind which place. Who reads from a number on begins at the checkpoint before it, and
//! takes the messages behind that as every node does. Where a slice of them ended, the next goes on.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::batch::NodeId;
use super::message::{Checkpoint, Message};
use super::nats::NatsError;
use super::nats::reader::StreamReader;
use super::nats::stream::{ChannelStream, StreamInfo};
use super::order::{Delivery, Order};
use crate::hub::history::{Record, Remote, RemoteExtent, SLICE_BYTES, Slice, now_ms};
use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::Newest;

/// Readers of the past at a time: a server has more to do.
const READERS_MAX: usize = 4;

/// Ends of slices that are kept for who goes on there, each with what NATS was asked for beyond: one message of the largest
/// size or [`SLICE_BYTES`].
const CURSORS_MAX: usize = 16;

/// How long a cursor is of use as it is: NATS forgets after 30 s what nobody asks.
const KEEP_TIME: Duration = Duration::from_secs(20);

/// Checkpoints that are known at most.
const MARKS_MAX: usize = 1024;

/// How long what went wrong is left alone.
const RETRY_TIME: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// How long a message is waited for that is there: one that does not come is not gone.
const READ_TIME: Duration = Duration::from_secs(10);

/// What the stream of a channel has of the past.
#[derive(Debug)]
pub(in crate::hub) struct StreamPast {
    state: Mutex<State>,
    /// Notified when it becomes known what there is.
    known: Notify,
    readers: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    /// The stream, once its checkpoints are known.
    stream: Option<ChannelStream>,
    /// Which stream, its first message, and its bytes.
    id: u64,
    first: u64,
    bytes: u64,
    epoch: Option<Epoch>,
    /// Messages that were published, and the next number.
    messages: u64,
    marks: Vec<Mark>,
    cursors: VecDeque<Cursor>,
    /// Why it could last not be read.
    failure: Option<NatsError>,
}

/// Where a slice ended, and the next goes on.
#[derive(Debug)]
struct Cursor {
    order: Order,
    /// Place of the last message that it took, or behind which it begins.
    place: u64,
    reader: StreamReader,
    kept_at: Instant,
}

/// What a checkpoint says.
#[derive(Clone, Copy, Debug)]
struct Mark {
    epoch: Epoch,
    place: u64,
    next: Seq,
    messages: u64,
    time_ms: u64,
}

impl Default for StreamPast {
    fn default() -> StreamPast {
        StreamPast {
            state: Mutex::default(),
            known: Notify::new(),
            readers: Semaphore::new(READERS_MAX),
        }
    }
}

impl StreamPast {
    /// The member is connected to the stream. Who waits for it reads from it once it is known what there is in it: without
    /// that, all of it would be taken for gone.
    ///
    /// # Errors
    /// NATS does not say which checkpoints there are.
    pub(super) async fn connect(
        &self,
        stream: &ChannelStream,
        info: StreamInfo,
    ) -> Result<(), NatsError> {
        let is_known = {
            let mut state = self.state.lock();
            if state.id != info.id {
                *state = State {
                    id: info.id,
                    ..State::default()
                };
            }
            state.stream.is_some()
        };
        self.note_info(info);
        // Those that come later, the member tells.
        if !is_known {
            let noted = stream.checkpoints(|entry| {
                if let Ok(Message::Checkpoint(checkpoint)) = Message::decode(&entry.body) {
                    self.note_checkpoint(entry.time_ms, &checkpoint);
                }
            });
            noted.await?;
        }
        let mut state = self.state.lock();
        state.stream = Some(stream.clone());
        // What was asked for over another connection does not come.
        state.cursors.iter_mut().for_each(|it| it.renew(stream));
        drop(state);
        self.known.notify_waiters();
        Ok(())
    }

    /// What the server says of the stream.
    pub(super) fn note_info(&self, info: StreamInfo) {
        let mut state = self.state.lock();
        (state.first, state.bytes) = (info.first, info.bytes);
        let first = state.first;
        state.marks.retain(|mark| mark.place + 1 >= first);
        state.cursors.retain(|cursor| cursor.place + 1 >= first);
    }

    /// There is a checkpoint in the stream.
    pub(super) fn note_checkpoint(&self, time_ms: u64, checkpoint: &Checkpoint) {
        let mut state = self.state.lock();
        if checkpoint.stream != state.id || checkpoint.place + 1 < state.first {
            return;
        }
        let mark = Mark {
            epoch: checkpoint.state.epoch,
            place: checkpoint.place,
            next: checkpoint.state.next,
            messages: checkpoint.state.messages,
            time_ms,
        };
        let at = state.marks.partition_point(|it| it.place < mark.place);
        if state.marks.get(at).is_none_or(|it| it.place != mark.place) {
            state.marks.insert(at, mark);
        }
        if state.marks.len() > MARKS_MAX {
            thin(&mut state.marks);
        }
    }

    /// The channel has come to here.
    pub(super) fn note_order(&self, epoch: Epoch, messages: u64) {
        let mut state = self.state.lock();
        state.messages = messages;
        if state.epoch.replace(epoch) != Some(epoch) {
            state.cursors.clear();
            self.known.notify_waiters();
        }
    }

    /// The first number of the stream, if it is known: what is before is kept by nobody.
    pub(super) fn oldest(&self) -> Option<Seq> {
        self.state.lock().of_epoch().next().map(|mark| mark.next)
    }

    /// The place that the last checkpoint of the stream is about, and its time.
    pub(super) fn last_checkpoint(&self) -> Option<(u64, u64)> {
        let state = self.state.lock();
        state.marks.last().map(|mark| (mark.place, mark.time_ms))
    }

    /// The stream, and which it is, once it is known what there is in it.
    async fn stream(&self) -> (ChannelStream, u64) {
        loop {
            let mut known = std::pin::pin!(self.known.notified());
            known.as_mut().enable();
            {
                let state = self.state.lock();
                if let Some(stream) = state.stream.as_ref().filter(|_| state.epoch.is_some()) {
                    return (stream.clone(), state.id);
                }
            }
            known.await;
        }
    }

    /// Does `attempt` until it goes well.
    async fn insist<T, F: Future<Output = Result<T, NatsError>>>(
        &self,
        mut attempt: impl FnMut(ChannelStream, u64) -> F,
    ) -> T {
        let mut backoff = Backoff::new(RETRY_TIME);
        loop {
            let (stream, id) = self.stream().await;
            // Others have their turn while it waits.
            let turn = self.readers.acquire().await;
            let attempted = attempt(stream.clone(), id).await;
            drop(turn);
            self.note_failure(&stream, attempted.as_ref().err());
            match attempted {
                Ok(done) => return done,
                Err(_) => sleep(backoff.pause()).await,
            }
        }
    }

    /// Says once in the log why the past cannot be read.
    fn note_failure(&self, stream: &ChannelStream, error: Option<&NatsError>) {
        let mut state = self.state.lock();
        if state.failure.as_ref() == error {
            return;
        }
        state.failure = error.cloned();
        let stream = stream.name();
        match error {
            Some(error) => warn!(stream, %error, "the past cannot be read: who asked for it waits"),
            None => info!(stream, "the past can be read again"),
        }
    }

    async fn slice(
        &self,
        stream: ChannelStream,
        id: u64,
        from: Seq,
        bytes_max: usize,
    ) -> Result<Slice<Arc<Record>>, NatsError> {
        let mut cursor = match self.start(&stream, id, from) {
            Ok(cursor) => cursor,
            Err(oldest) => return Ok(Slice::Gone { oldest }),
        };
        let mut slice = SliceBuilder::new(from, bytes_max);
        walk(&stream, &mut cursor, |_, record| slice.add(record)).await?;
        if let Some(oldest) = slice.gone {
            return Ok(Slice::Gone { oldest });
        }
        let mut state = self.state.lock();
        if state.id == id && cursor.order.is_known() && !slice.has_gap {
            cursor.kept_at = Instant::now();
            state.cursors.push_back(cursor);
            if state.cursors.len() > CURSORS_MAX {
                state.cursors.pop_front();
            }
        }
        Ok(match slice.records.is_empty() {
            true => Slice::End,
            false => Slice::Records(slice.records),
        })
    }

    /// Where to begin for this number; or the oldest there is, if that is beyond it.
    fn start(&self, stream: &ChannelStream, id: u64, from: Seq) -> Result<Cursor, Seq> {
        let mut state = self.state.lock();
        let cursor = state.cursors.iter().enumerate();
        let cursor = cursor.map(|(at, cursor)| (at, cursor.order.state().next));
        let cursor = cursor.filter(|(_, next)| *next <= from);
        let cursor = cursor.max_by_key(|(_, next)| *next);
        let marks: Vec<_> = state.of_epoch().collect();
        let mark = marks.iter().rev().find(|mark| mark.next <= from);
        if let Some((at, next)) = cursor
            && mark.is_none_or(|mark| mark.next <= next)
            && let Some(mut cursor) = state.cursors.remove(at)
        {
            if cursor.kept_at.elapsed() > KEEP_TIME {
                cursor.renew(stream);
            }
            return Ok(cursor);
        }
        match (mark, marks.first()) {
            (Some(mark), _) => Ok(Cursor::new(stream, id, mark)),
            (None, Some(oldest)) => Err(oldest.next),
            // What is in memory is all there is.
            (None, None) => Err(Seq(u64::MAX)),
        }
    }

    async fn find(&self, stream: ChannelStream, id: u64, newest: Newest) -> Result<Seq, NatsError> {
        let (marks, published) = {
            let state = self.state.lock();
            let marks: Vec<_> = state.of_epoch().collect();
            (marks, state.messages)
        };
        let Some(oldest) = marks.first() else {
            return Ok(Seq(u64::MAX));
        };
        let start = |mark: &Mark| Cursor::new(&stream, id, mark);
        let mut found = oldest.next;
        match newest {
            Newest::Messages(most) => {
                let target = published.saturating_sub(most);
                let mark = marks.iter().rev().find(|mark| mark.messages <= target);
                let mark = mark.unwrap_or(oldest);
                walk(&stream, &mut start(mark), |before, record| {
                    let behind = before + record.messages();
                    if behind > target {
                        found =
                            record.seq_of_last_messages((behind - target).min(record.messages()));
                        return Walk::Done;
                    }
                    found = record.next_seq();
                    Walk::On
                })
                .await?;
            }
            Newest::Age(most) => {
                let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
                let since = now_ms().saturating_sub(most);
                let mark = marks.iter().rev().find(|mark| mark.time_ms < since);
                walk(&stream, &mut start(mark.unwrap_or(oldest)), |_, record| {
                    found = record.first_seq;
                    if record.time_ms >= since {
                        return Walk::Done;
                    }
                    found = record.next_seq();
                    Walk::On
                })
                .await?;
            }
            Newest::Bytes(most) => {
                let (mut left, mut end) = (most, Seq(u64::MAX));
                for mark in marks.iter().rev() {
                    let mut lines = Vec::new();
                    walk(&stream, &mut start(mark), |_, record| {
                        if record.first_seq >= end {
                            return Walk::Done;
                        }
                        lines.push((record.first_seq, record.raw.len() as u64));
                        Walk::On
                    })
                    .await?;
                    for (first, bytes) in lines.into_iter().rev() {
                        let Some(rest) = left.checked_sub(bytes) else {
                            return Ok(found);
                        };
                        (left, found) = (rest, first);
                    }
                    end = mark.next;
                }
            }
        }
        Ok(found)
    }
}

impl State {
    /// What checkpoints say of the numbers that there are now.
    fn of_epoch(&self) -> impl DoubleEndedIterator<Item = Mark> {
        let epoch = self.epoch;
        let marks = self.marks.iter().copied();
        marks.filter(move |mark| Some(mark.epoch) == epoch)
    }
}

/// Forgets every second of many, but neither the first, before which nothing can be read, nor the last.
fn thin(marks: &mut Vec<Mark>) {
    let last = marks.len().saturating_sub(1);
    let mut index = 0..;
    marks.retain(|_| index.next().is_some_and(|at| at % 2 == 0 || at == last));
}

/// Records from a number on, which follow each other.
#[derive(Debug)]
struct SliceBuilder {
    from: Seq,
    bytes_max: usize,
    records: Vec<Arc<Record>>,
    bytes: usize,
    /// The oldest there is, if what was asked for is not there any more.
    gone: Option<Seq>,
    /// Something is missing behind the last: who goes on there is told.
    has_gap: bool,
}

impl SliceBuilder {
    fn new(from: Seq, bytes_max: usize) -> SliceBuilder {
        SliceBuilder {
            from,
            bytes_max,
            records: Vec::new(),
            bytes: 0,
            gone: None,
            has_gap: false,
        }
    }

    fn add(&mut self, record: Record) -> Walk {
        match self.records.last() {
            None if record.first_seq > self.from => {
                self.gone = Some(record.first_seq);
                return Walk::Done;
            }
            // The stream was trimmed where it was read.
            Some(last) if record.first_seq != last.next_seq() => {
                self.has_gap = true;
                return Walk::Done;
            }
            _ => {}
        }
        if record.next_seq() > self.from {
            self.bytes += record.weight();
            self.records.push(Arc::new(record));
        }
        match self.bytes < self.bytes_max {
            true => Walk::On,
            false => Walk::Done,
        }
    }
}

/// What is to be done behind a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    On,
    Done,
}

impl Cursor {
    fn new(stream: &ChannelStream, id: u64, mark: &Mark) -> Cursor {
        Cursor {
            order: Order::new(NodeId(0), id),
            place: mark.place,
            reader: stream.read_slices_behind(mark.place, SLICE_BYTES),
            kept_at: Instant::now(),
        }
    }

    /// Asks NATS anew for what comes behind its place, when it is read on.
    fn renew(&mut self, stream: &ChannelStream) {
        self.reader = stream.read_slices_behind(self.place, SLICE_BYTES);
    }
}

/// Shows what is behind a place, until the end of the stream, or until it is enough: each record, and the messages that
/// were published before it.
async fn walk(
    stream: &ChannelStream,
    cursor: &mut Cursor,
    mut visit: impl FnMut(u64, Record) -> Walk,
) -> Result<(), NatsError> {
    if cursor.place >= cursor.reader.end().await? {
        // There may be more by now.
        cursor.renew(stream);
    }
    let end = cursor.reader.end().await?;
    let (order, reader) = (&mut cursor.order, &mut cursor.reader);
    let mut before = order.state().messages;
    while cursor.place < end {
        let late = |_| NatsError::Away("a message of the stream did not come in time".to_owned());
        let entry = timeout(READ_TIME, reader.next()).await.map_err(late)??;
        cursor.place = entry.place;
        let (mut out, message) = (Vec::new(), Message::decode(&entry.body).ok());
        order.apply(entry.place, entry.time_ms, message, &mut out);
        if let Some(Delivery::Placed { .. }) = out.first() {
            before = order.state().messages;
        }
        order.go_on(&mut out);
        for delivery in out {
            let Delivery::Batch { record, .. } = delivery else {
                continue;
            };
            let messages = record.messages();
            if visit(before, record) == Walk::Done {
                return Ok(());
            }
            before += messages;
        }
    }
    Ok(())
}

impl Remote for StreamPast {
    fn read(
        self: Arc<Self>,
        from: Seq,
        bytes_max: usize,
    ) -> BoxFuture<'static, io::Result<Slice<Arc<Record>>>> {
        async move {
            let this = &*self;
            let slice = this.insist(|stream, id| this.slice(stream, id, from, bytes_max));
            Ok(slice.await)
        }
        .boxed()
    }

    fn locate(self: Arc<Self>, newest: Newest) -> BoxFuture<'static, io::Result<Seq>> {
        async move {
            let this = &*self;
            Ok(this
                .insist(|stream, id| this.find(stream, id, newest))
                .await)
        }
        .boxed()
    }

    fn known(self: Arc<Self>) -> BoxFuture<'static, ()> {
        async move { drop(self.stream().await) }.boxed()
    }

    fn extent(&self) -> RemoteExtent {
        let state = self.state.lock();
        let oldest = state.of_epoch().next();
        RemoteExtent {
            bytes: state.bytes,
            oldest: oldest.map(|mark| mark.next),
            messages_before: oldest.map_or(0, |mark| mark.messages),
            oldest_ms: oldest.map(|mark| mark.time_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::part::{Kind, Part};
    use crate::wire::ids::ClientId;

    /// A record of so many lines.
    fn record(first: u64, lines: u32) -> Record {
        let raw = "line\n".repeat(lines as usize);
        Record {
            first_seq: Seq(first),
            time_ms: 0,
            origins: [ClientId(1)].into(),
            names: Box::default(),
            parts: [Part {
                kind: Kind::Lines,
                messages: lines,
            }]
            .into(),
            ends: [raw.len() as u32].into(),
            raw: raw.into(),
            sessions: Box::default(),
        }
    }

    fn numbers(slice: &SliceBuilder) -> Vec<u64> {
        let records = slice.records.iter();
        records.map(|record| record.first_seq.0).collect()
    }

    #[test]
    fn of_many_checkpoints_the_first_and_the_last_stay() {
        let mark = |place| Mark {
            epoch: Epoch(1),
            place,
            next: Seq(place),
            messages: place,
            time_ms: 0,
        };
        let mut marks: Vec<_> = (0..6).map(mark).collect();
        thin(&mut marks);
        let places: Vec<_> = marks.iter().map(|mark| mark.place).collect();
        assert_eq!(places, [0, 2, 4, 5]);
    }

    #[test]
    fn slice_has_what_was_asked_for_and_ends_before_a_gap() {
        let mut slice = SliceBuilder::new(Seq(12), 1 << 20);
        for first in [1, 10, 15] {
            assert_eq!(slice.add(record(first, 5)), Walk::On);
        }
        assert_eq!(slice.add(record(21, 5)), Walk::Done);
        assert_eq!(
            (numbers(&slice), slice.has_gap, slice.gone),
            (vec![10, 15], true, None)
        );
        let mut slice = SliceBuilder::new(Seq(12), 1 << 20);
        assert_eq!(slice.add(record(1, 5)), Walk::On);
        assert_eq!(slice.add(record(13, 5)), Walk::Done);
        assert_eq!(slice.gone, Some(Seq(13)));
        let mut slice = SliceBuilder::new(Seq(1), 1);
        assert_eq!(slice.add(record(1, 5)), Walk::Done);
        assert_eq!((numbers(&slice), slice.has_gap), (vec![1], false));
    }
}

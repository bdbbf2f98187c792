//! Messages, both dialects and both roles, and the frames that they come in.

use bytes::Bytes;

use super::input::Input;
use crate::wire::frame::{Frames, LENGTH};
use crate::wire::{
    Call, Dialect, Expected, FromClient, FromServer, MessageId, Output, RawReply, Request,
};

/// Every shape that a reply can be expected to have.
const SHAPES: [Expected; 16] = [
    Expected::None,
    Expected::Tid,
    Expected::Data,
    Expected::Loaded,
    Expected::Oids,
    Expected::Vote,
    Expected::Invalidations,
    Expected::Info,
    Expected::History,
    Expected::UndoLog,
    Expected::CurrentRecord,
    Expected::Iterator,
    Expected::Transaction,
    Expected::Record,
    Expected::ServerStatus,
    Expected::Value,
];

/// The first byte says the dialect.
fn dialect(input: &mut Input<'_>) -> Dialect {
    match input.byte() & 1 {
        0 => Dialect::Pickle,
        _ => Dialect::Msgpack,
    }
}

/// What a client says. Our client would say the same so that it means the same.
pub(super) fn client(data: &[u8]) {
    let mut input = Input::new(data);
    let dialect = dialect(&mut input);
    let frame = Bytes::copy_from_slice(input.rest());
    let read = dialect.decode_from_client(frame.clone());
    let slowly = dialect.decode_from_client_slowly(&frame);
    // Not equal to itself where a NaN is in it.
    if read == read.clone() {
        assert_eq!(read, slowly, "the shortcut says something else");
    }
    let Ok(FromClient::Request(request)) = read else {
        return;
    };
    if matches!(request.call, Call::Unknown { .. } | Call::Malformed { .. }) {
        return;
    }
    let Some(said) = request_frame(dialect, &request) else {
        return;
    };
    let Ok(FromClient::Request(again)) = dialect.decode_from_client(said.clone()) else {
        panic!("{request:?} is said as {said:?}, which is no request");
    };
    assert_eq!(again.call.method(), request.call.method());
    let once_more = request_frame(dialect, &again).expect("what was said once can be said again");
    assert_eq!(once_more, said, "{request:?} became {again:?}");
    // Msgpack has neither lists beside tuples nor instances.
    if dialect == Dialect::Pickle && request == request.clone() {
        assert_eq!(again, request);
    }
}

/// None for what has become too deep to be read: the frame itself had one level less around it.
fn request_frame(dialect: Dialect, request: &Request) -> Option<Bytes> {
    let mut output = Output::new();
    dialect.encode_request(request, &mut output).ok()?;
    Some(only_frame(&output))
}

/// What a server says, whatever it was asked.
pub(super) fn server(data: &[u8]) {
    let mut input = Input::new(data);
    let dialect = dialect(&mut input);
    let frame = Bytes::copy_from_slice(input.rest());
    match dialect.decode_from_server(frame) {
        Ok(FromServer::Reply(reply)) => reply_in_every_shape(dialect, &reply),
        Ok(FromServer::Push(push)) => {
            let mut output = Output::new();
            dialect.encode_push(&push, &mut output);
            let again = dialect.decode_from_server(only_frame(&output));
            assert_eq!(again, Ok(FromServer::Push(push)));
        }
        Ok(FromServer::Heartbeat) | Err(_) => {}
    }
}

/// Said by our server in its turn, a reply has the same shape, and then the same bytes for ever.
fn reply_in_every_shape(dialect: Dialect, raw: &RawReply) {
    let id = MessageId::Int(1);
    for shape in SHAPES {
        let Ok(reply) = raw.clone().expect(shape) else {
            continue;
        };
        let mut output = Output::new();
        dialect.encode_reply(&id, &reply, &mut output);
        let said = only_frame(&output);
        let again = match dialect.decode_from_server(said.clone()) {
            Ok(FromServer::Reply(again)) => again,
            other => panic!("{reply:?} is said as {said:?}, which is {other:?}"),
        };
        // What cannot be said is said to be so.
        if again.outcome.is_err() {
            continue;
        }
        let again = again
            .expect(shape)
            .unwrap_or_else(|error| panic!("{error}: {reply:?} is said as {said:?}"));
        let mut output = Output::new();
        dialect.encode_reply(&id, &again, &mut output);
        assert_eq!(only_frame(&output), said, "{reply:?} became {again:?}");
    }
}

/// The frame that was written, without its length.
fn only_frame(output: &Output) -> Bytes {
    let mut written = output.to_bytes();
    let length = written.split_to(LENGTH);
    let length = u32::from_be_bytes(*length.first_chunk().expect("it has four bytes"));
    assert_eq!(length as usize, written.len());
    written
}

/// A stream cut into pieces. The first byte is the limit, the second how long the pieces are.
pub(super) fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let limit = usize::from(input.byte()) * 64;
    let step = usize::from(input.byte()) + 1;
    let stream = input.rest();
    let mut whole = Frames::new(limit);
    let expected = take_all(&mut whole, stream);
    let mut frames = Frames::new(limit);
    let mut got = Vec::new();
    for piece in stream.chunks(step) {
        match take_all(&mut frames, piece) {
            Ok(more) => got.extend(more),
            Err(refused) => {
                // What came before it was taken in either way.
                assert_eq!(Err(refused), expected.map(|_| ()));
                return;
            }
        }
    }
    assert_eq!(Ok(&got), expected.as_ref());
    assert_eq!(frames.has_part(), whole.has_part());
    let taken: usize = got.iter().map(|frame| frame.len() + LENGTH).sum();
    assert_eq!(frames.has_part(), taken < stream.len());
}

fn take_all(
    frames: &mut Frames,
    bytes: &[u8],
) -> Result<Vec<Bytes>, crate::wire::frame::FrameTooLarge> {
    frames.room().extend_from_slice(bytes);
    let mut taken = Vec::new();
    while let Some(frame) = frames.take()? {
        taken.push(frame);
    }
    // Room for what was announced is made as it arrives.
    frames.room();
    Ok(taken)
}

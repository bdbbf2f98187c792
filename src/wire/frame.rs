//! Frames: a length of four bytes, big-endian, and that many bytes. No checksum.
//!
//! [`Frames`] takes bytes as they come and yields whole frames that share its buffer: nothing is
//! copied, and nothing is allocated because of a length that was merely announced.

use bytes::{Buf, Bytes, BytesMut};

/// The size of a frame's length.
pub const LENGTH: usize = 4;

/// What most connections may say in one frame. ZODB records are rarely beyond some megabytes; a
/// record's message is its size and about a hundred bytes.
pub const DEFAULT_LIMIT: usize = 256 << 20;

/// How much room is made before reading, at least.
const READ_STEP: usize = 64 << 10;

/// How much room is made at once for a frame that is on its way. Pages that are never written to cost
/// nothing, and frames up to this size are never moved.
const FRAME_STEP: usize = 1 << 20;

/// How much is kept of the beginning of a frame that is passed over: enough to see which message it was.
pub const HEAD: usize = 64;

/// A frame that is larger than its receiver takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {announced} bytes was announced, the limit is {limit}")]
pub struct FrameTooLarge {
    pub announced: usize,
    pub limit: usize,
    /// The beginning of the frame where it was passed over: what follows it can be read. Empty where it
    /// was not.
    pub head: Vec<u8>,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    limit: usize,
    passes_over: Option<Judge>,
    passing: Option<Passing>,
}

/// Whether a frame beyond the limit is passed over, by what has come of its beginning; none where that is too
/// little to tell. It is asked with [`HEAD`] bytes at most, and must tell then.
pub type Judge = fn(&[u8]) -> Option<bool>;

/// A frame that is being passed over.
#[derive(Debug)]
struct Passing {
    left: usize,
    frame: FrameTooLarge,
}

impl Frames {
    /// Frames of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Frames {
            buffer: BytesMut::new(),
            limit,
            passes_over: None,
            passing: None,
        }
    }

    /// Frames beyond the limit of which this says so are read to their end and forgotten, so that the stream
    /// can be used further.
    pub fn pass_over(&mut self, judge: Judge) {
        self.passes_over = Some(judge);
    }

    /// Bytes that have come of a frame, or of several.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Changes the limit for the frames that were not taken yet.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next whole frame; none where more bytes are needed.
    ///
    /// The frame shares memory with others that arrived with it: who keeps a small piece of it for
    /// long should copy that piece.
    ///
    /// # Errors
    /// The announced length is beyond the limit. The stream cannot be used further, unless the frame was
    /// [passed over](Self::pass_over): then it is said at its end.
    pub fn take(&mut self) -> Result<Option<Bytes>, FrameTooLarge> {
        if self.passing.is_some() {
            return self.pass().map_or(Ok(None), Err);
        }
        let Some(announced) = self.announced() else {
            return Ok(None);
        };
        if announced > self.limit {
            let frame = FrameTooLarge {
                announced,
                limit: self.limit,
                head: Vec::new(),
            };
            let head = &self.buffer[LENGTH..];
            let head = &head[..head.len().min(HEAD)];
            match self.passes_over.map(|judge| judge(head)) {
                None | Some(Some(false)) => return Err(frame),
                Some(None) if head.len() < HEAD => return Ok(None),
                Some(None | Some(true)) => {}
            }
            self.buffer.advance(LENGTH);
            self.passing = Some(Passing {
                left: announced,
                frame,
            });
            return self.pass().map_or(Ok(None), Err);
        }
        if self.buffer.len() - LENGTH < announced {
            return Ok(None);
        }
        self.buffer.advance(LENGTH);
        let frame = self.buffer.split_to(announced).freeze();
        if announced >= READ_STEP && self.buffer.is_empty() {
            // Small frames that follow would share what is left of its buffer, and who keeps one of them would
            // keep all of it.
            self.buffer = BytesMut::new();
        }
        Ok(Some(frame))
    }

    /// Forgets what has come of the frame that is passed over; gives it at its end.
    fn pass(&mut self) -> Option<FrameTooLarge> {
        let passing = self.passing.as_mut()?;
        let came = self.buffer.len().min(passing.left);
        let head = &mut passing.frame.head;
        head.extend_from_slice(&self.buffer[..came.min(HEAD - head.len())]);
        self.buffer.advance(came);
        passing.left -= came;
        if passing.left > 0 {
            return None;
        }
        self.passing.take().map(|passing| passing.frame)
    }

    /// How much is to be read at once, at most: a large frame is read to its end and no further, so that it has
    /// its buffer for itself.
    #[must_use]
    pub fn most(&self) -> usize {
        match self.announced() {
            Some(announced) if announced >= READ_STEP && self.passing.is_none() => {
                (announced + LENGTH).saturating_sub(self.buffer.len())
            }
            _ => usize::MAX,
        }
    }

    /// Where to append what was read, with room for a good piece. To be asked for [`most`](Self::most) before.
    ///
    /// Beyond [`FRAME_STEP`], room grows with what has arrived, not with what was announced: a frame of
    /// `n` bytes costs at most about `2n`, whatever its sender claimed.
    pub fn room(&mut self) -> &mut BytesMut {
        let arrived = self.buffer.len();
        let announced = match self.passing {
            // What comes is not kept.
            Some(_) => None,
            None => self
                .announced()
                .filter(|announced| *announced <= self.limit),
        };
        let missing = announced.map_or(0, |announced| (announced + LENGTH).saturating_sub(arrived));
        let free = self.buffer.capacity() - arrived;
        if missing <= FRAME_STEP {
            // All of the frame, at once, and while little of it would have to be moved; a small one
            // with as much of what follows as there is. There is always some room: reading nothing is
            // the end.
            let few = READ_STEP / 16;
            if free < missing || free == 0 || (free < few && arrived < few) {
                self.buffer.reserve(missing.max(READ_STEP));
            }
        } else if free < READ_STEP {
            self.buffer.reserve(missing.min(arrived.max(FRAME_STEP)));
        }
        &mut self.buffer
    }

    /// Whether some bytes of a frame are there that is not whole.
    #[must_use]
    pub fn has_part(&self) -> bool {
        !self.buffer.is_empty() || self.passing.is_some()
    }

    fn announced(&self) -> Option<usize> {
        let length = self.buffer.first_chunk::<LENGTH>()?;
        Some(u32::from_be_bytes(*length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(frames: &mut Frames, bytes: &[u8]) {
        frames.room().extend_from_slice(bytes);
    }

    /// Reads from `stream` as a connection does; the next frame.
    fn read(frames: &mut Frames, stream: &mut &[u8]) -> Bytes {
        loop {
            if let Some(frame) = frames.take().expect("within the limit") {
                return frame;
            }
            let most = frames.most();
            let room = frames.room();
            let some = (room.capacity() - room.len()).min(most).min(stream.len());
            assert!(some > 0, "the frame is whole");
            room.extend_from_slice(&stream[..some]);
            *stream = &stream[some..];
        }
    }

    #[test]
    fn small_frames_share_no_large_buffer() {
        let mut stream = Vec::new();
        for size in [1_150_000, 16_000, 100, 70_000, 16_000, 9_000_000, 20_000] {
            stream.extend_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
            stream.resize(stream.len() + size, b'x');
        }
        let (mut frames, mut left) = (Frames::new(16 << 20), &stream[..]);
        while !left.is_empty() || frames.has_part() {
            let before = frames.buffer.capacity();
            let frame = read(&mut frames, &mut left);
            if frame.len() < READ_STEP {
                assert!(before <= 4 * READ_STEP, "{} in {before}", frame.len());
            }
        }
    }

    #[test]
    fn a_frame_in_pieces_is_one_frame() {
        let mut frames = Frames::new(100);
        for byte in [0, 0, 0, 3, b'a', b'b'] {
            feed(&mut frames, &[byte]);
            assert_eq!(frames.take(), Ok(None));
        }
        assert!(frames.has_part());
        feed(&mut frames, b"c\0\0\0\0\0\0");
        assert_eq!(frames.take(), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(frames.take(), Ok(Some(Bytes::new())));
        assert_eq!(frames.take(), Ok(None));
    }

    #[test]
    fn four_gibibytes_are_refused_before_they_come() {
        let mut frames = Frames::new(1 << 20);
        feed(&mut frames, &[0xff; 4]);
        assert_eq!(
            frames.take(),
            Err(FrameTooLarge {
                announced: u32::MAX as usize,
                limit: 1 << 20,
                head: Vec::new(),
            })
        );
    }

    #[test]
    fn a_frame_that_is_passed_over_takes_no_memory_and_what_follows_is_read() {
        let mut frames = Frames::new(1000);
        frames.pass_over(|head| head.first().map(|first| *first == 0));
        let large: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        feed(&mut frames, &(large.len() as u32).to_be_bytes());
        for piece in large.chunks(10_000) {
            assert_eq!(frames.take(), Ok(None));
            assert!(frames.has_part());
            feed(&mut frames, piece);
            assert!(frames.room().capacity() <= 2 * READ_STEP);
        }
        feed(&mut frames, b"\0\0\0\x02ok");
        let passed = frames.take().expect_err("it was too large");
        assert_eq!(passed.head, large[..HEAD]);
        assert_eq!((passed.announced, passed.limit), (large.len(), 1000));
        assert_eq!(frames.take(), Ok(Some(Bytes::from_static(b"ok"))));
        assert!(!frames.has_part());
        // One of which nothing is to be made is refused as soon as that is known.
        feed(&mut frames, &(1001u32).to_be_bytes());
        assert_eq!(frames.take(), Ok(None));
        feed(&mut frames, b"\xff");
        assert!(frames.take().is_err());
    }

    #[test]
    fn an_announced_length_reserves_little_memory() {
        let mut frames = Frames::new(usize::MAX);
        feed(&mut frames, &[0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(frames.take(), Ok(None));
        assert!(frames.room().capacity() <= 2 * FRAME_STEP);
    }

    #[test]
    fn a_frame_of_a_megabyte_is_never_moved() {
        let mut frames = Frames::new(1 << 20);
        feed(&mut frames, &(1_000_000u32).to_be_bytes());
        let start = frames.room().as_ptr();
        for _ in 0..1000 {
            assert_eq!(frames.take(), Ok(None));
            feed(&mut frames, &[7; 1000]);
        }
        let frame = frames.take().expect("within the limit").expect("whole");
        assert_eq!(frame.as_ptr(), start.wrapping_add(LENGTH));
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_the_frames_are_the_same(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
            cut in 1usize..50,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
                stream.extend_from_slice(frame);
            }
            let mut decoder = Frames::new(1000);
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.room().extend_from_slice(piece);
                while let Some(frame) = decoder.take().expect("within the limit") {
                    got.push(frame.to_vec());
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(!decoder.has_part());
        }
    }
}

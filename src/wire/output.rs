//! What waits to be written to one connection.
//!
//! Small messages are appended to one buffer. Data from [`SHARED`] bytes on is not copied: the queue
//! keeps a handle and the place in the buffer where it belongs ([`Cut`]). Lengths of frames are in
//! the buffer and patched when the frame ends, so nothing has to be measured before it is written.
//!
//! ```text
//! buffer  len|head……|tail len|small message len|head……|tail
//! cuts              ^ 64 KiB of data                   ^ 1 MiB of data
//! ```

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::LENGTH;

/// From this size on data is queued by reference; below, copying it is cheaper than a segment.
pub(super) const SHARED: usize = 16 << 10;

/// A buffer that grew beyond this is given back when it has been written.
const KEEP: usize = 1 << 20;

/// Messages that wait to be written, in order.
#[derive(Debug, Default)]
pub struct Output {
    buffer: BytesMut,
    cuts: VecDeque<Cut>,
    /// What was written of the buffer since the positions of cuts were counted from zero.
    written: usize,
    /// The bytes that cuts hold.
    shared: usize,
}

/// Data that belongs before the byte of the buffer at `position`.
#[derive(Debug)]
struct Cut {
    position: usize,
    data: Bytes,
}

/// A frame that was begun. It must be given to [`Output::end`].
#[must_use]
#[derive(Debug)]
pub struct FrameStart {
    at: usize,
    shared: usize,
}

impl Output {
    #[must_use]
    pub fn new() -> Self {
        Output::default()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() + self.shared
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    /// Begins a frame; its content is what is put until [`Output::end`].
    pub fn begin(&mut self) -> FrameStart {
        let start = FrameStart {
            at: self.buffer.len(),
            shared: self.shared,
        };
        self.buffer.put_u32(0);
        start
    }

    /// Ends a frame.
    ///
    /// # Errors
    /// The frame is longer than four bytes of length can say; it is taken back.
    pub fn end(&mut self, start: FrameStart) -> Result<(), FrameOverflow> {
        let length = self.buffer.len() - start.at - LENGTH + (self.shared - start.shared);
        let Ok(length) = u32::try_from(length) else {
            self.take_back(start);
            return Err(FrameOverflow { length });
        };
        self.buffer[start.at..start.at + LENGTH].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Removes a frame that was begun, and all that was put since.
    pub fn take_back(&mut self, start: FrameStart) {
        let position = self.written + start.at;
        while let Some(cut) = self.cuts.pop_back_if(|cut| cut.position > position) {
            self.shared -= cut.data.len();
        }
        self.buffer.truncate(start.at);
    }

    /// Puts bytes by copying them.
    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Puts bytes; large ones by reference.
    pub fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED {
            self.put(bytes);
        } else {
            self.shared += bytes.len();
            self.cuts.push_back(Cut {
                position: self.written + self.buffer.len(),
                data: bytes.clone(),
            });
        }
    }

    /// The buffer that small things are appended to. Only append.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Fills `slices` with what is to be written next, and says how many it filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut at, mut filled) = (0, 0);
        let mut cuts = self.cuts.iter();
        while filled < slices.len() {
            let cut = cuts.next();
            let until = cut.map_or(self.buffer.len(), |cut| cut.position - self.written);
            if until > at {
                slices[filled] = IoSlice::new(&self.buffer[at..until]);
                filled += 1;
                at = until;
            }
            let Some(cut) = cut else { break };
            if filled == slices.len() {
                break;
            }
            slices[filled] = IoSlice::new(&cut.data);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes: they were written.
    pub fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let until = self
                .cuts
                .front()
                .map_or(self.buffer.len(), |cut| cut.position - self.written);
            let step = count.min(until);
            self.buffer.advance(step);
            self.written += step;
            count -= step;
            if count == 0 {
                break;
            }
            let Some(cut) = self.cuts.front_mut() else {
                debug_assert!(false, "more was written than waited");
                break;
            };
            let step = count.min(cut.data.len());
            cut.data.advance(step);
            self.shared -= step;
            count -= step;
            if cut.data.is_empty() {
                self.cuts.pop_front();
            }
        }
        if self.is_empty() {
            self.written = 0;
            self.cuts.clear();
            if self.buffer.capacity() > KEEP {
                self.buffer = BytesMut::new();
            } else {
                self.buffer.clear();
            }
        }
    }

    /// A copy of all that waits, for tests and tools.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.pending());
        let mut slices = vec![IoSlice::new(&[]); 2 * self.cuts.len() + 2];
        let filled = self.slices(&mut slices);
        for slice in &slices[..filled] {
            all.extend_from_slice(slice);
        }
        all.freeze()
    }
}

/// A message that no frame can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message of {length} bytes is longer than a frame can be")]
pub struct FrameOverflow {
    pub length: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(output: &mut Output, parts: &[Bytes]) {
        let start = output.begin();
        for part in parts {
            output.put(b"<");
            output.put_shared(part);
        }
        output.end(start).expect("small");
    }

    #[test]
    fn large_data_is_not_copied_and_stands_where_it_was_put() {
        let large = Bytes::from(vec![7; SHARED]);
        let mut output = Output::new();
        frame(&mut output, &[large.clone(), Bytes::from_static(b"x")]);
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(output.slices(&mut slices), 3);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
        assert_eq!(output.pending(), 4 + 1 + SHARED + 2);
        assert_eq!(output.to_bytes()[..4], (SHARED as u32 + 3).to_be_bytes());
    }

    #[test]
    fn a_frame_that_is_taken_back_leaves_no_trace() {
        let mut output = Output::new();
        frame(&mut output, &[Bytes::from(vec![1; SHARED])]);
        let before = output.to_bytes();
        let start = output.begin();
        output.put_shared(&Bytes::from(vec![2; SHARED]));
        output.take_back(start);
        assert_eq!(output.to_bytes(), before);
        assert_eq!(output.pending(), before.len());
    }

    proptest! {
        #[test]
        fn whatever_the_socket_takes_the_bytes_are_the_same(
            sizes in proptest::collection::vec(prop_oneof![0usize..100, SHARED..SHARED + 100], 0..12),
            step in 1usize..40_000,
        ) {
            let mut output = Output::new();
            let mut expected = Vec::new();
            let mut got = Vec::new();
            for (number, size) in sizes.into_iter().enumerate() {
                let data = Bytes::from(vec![number as u8; size]);
                expected.extend_from_slice(&(size as u32 + 1).to_be_bytes());
                expected.push(b'<');
                expected.extend_from_slice(&data);
                frame(&mut output, &[data]);
                // Something is written between the messages, too.
                let now = output.to_bytes();
                let written = step.min(now.len());
                got.extend_from_slice(&now[..written]);
                output.advance(written);
            }
            while !output.is_empty() {
                let now = output.to_bytes();
                prop_assert_eq!(now.len(), output.pending());
                let written = step.min(now.len());
                got.extend_from_slice(&now[..written]);
                output.advance(written);
            }
            prop_assert_eq!(got, expected);
        }
    }
}

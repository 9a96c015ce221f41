//! What the peer of an HTTP/2 connection may have of our memory, beside the bodies that flow control
//! bounds.

use super::headers::BETWEEN_SIDECARS;
use super::serve::MAX_HEADER_BYTES;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A header block on the wire, bytes. Beyond it the connection ends.
    pub encoded_block: usize,
    /// The fields of a block as HTTP/2 counts them, bytes (RFC 9113, section 6.5.2). Of what is beyond,
    /// nothing is kept.
    pub decoded_block: u32,
    /// Frames that come late, for streams that were given up, over the life of the connection: each is
    /// answered with a reset, which may have to wait, and beyond so many the connection ends.
    pub late_frames: usize,
}

impl Limits {
    /// For apps of the mesh and their sidecars. One connection carries all calls of a sidecar, and lives
    /// through many that are given up; the resets that nobody reads may be 30 MB.
    pub const MESH: Self = Self {
        late_frames: 256 * 1024,
        ..Self::STRANGERS
    };
    /// For who has no identity, where policy may let them in all the same. A block may be larger than
    /// what passes, so that who goes a little too far is refused by itself.
    pub const STRANGERS: Self = Self {
        encoded_block: 128 * 1024,
        decoded_block: 288 * 1024,
        late_frames: 1024,
    };
    /// For who may only ask for a probe.
    pub const PROBES: Self = Self {
        encoded_block: 16 * 1024,
        decoded_block: 16 * 1024,
        late_frames: 1024,
    };
}

/// Whatever is left of trailers that go beyond the limit is too large, too: what passes and the longest
/// field there can be are below it. Huffman's shortest code has 5 bits (RFC 7541, appendix B).
const _: () = {
    let longest_field = Limits::MESH.encoded_block * 8 / 5;
    let passes = MAX_HEADER_BYTES + BETWEEN_SIDECARS;
    assert!(longest_field + passes < Limits::MESH.decoded_block as usize);
};

//! Where the mesh's objects come from. A source only reads and says what it read; what it means is
//! the index's to say.

pub mod directory;
pub(crate) mod watch;

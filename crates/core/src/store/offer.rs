//! All that the store of a gateway keeps.

use crate::store::MessageStore;
use crate::store::conversations::Conversations;
use crate::store::invites::Invites;

/// All that the store of a gateway keeps, by one object.
pub trait Store: MessageStore + Conversations + Invites {}

impl<T: MessageStore + Conversations + Invites> Store for T {}

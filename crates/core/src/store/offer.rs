//! All that the store of a gateway keeps.

use crate::store::MessageStore;
use crate::store::conversations::Conversations;

/// All that the store of a gateway keeps, by one object.
pub trait Store: MessageStore + Conversations {}

impl<T: MessageStore + Conversations> Store for T {}

//! Rooms: who hears what.
//!
//! A room lives as long as it has a member. Its members are in the shards, as
//! plain vectors of slots; a member keeps its position, so leaving is a swap.
//! The [`RoomDirectory`] knows which shards have members, numbers a room's
//! publications, and puts them into the shards' mailboxes under the room's
//! lock, so that all see them in the order of their offsets.

pub mod access;
pub mod directory;
pub mod members;

pub use access::{
    Grant, MAX_NAME, PRIVATE, RoomError, STAYS, can_fit, conversation_of, is_valid_name, may_join,
    may_publish, of_conversation,
};
pub use directory::{Followed, Gap, Left, Numbered, Room, RoomDirectory, RoomKey, RoomRef};
pub use members::{Joined, LocalRooms, Membership};

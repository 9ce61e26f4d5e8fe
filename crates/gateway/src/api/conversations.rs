//! Members of conversations, as backends see and change them: all is in the store, so no other
//! node is asked.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::entries::{ConversationMember, Missing, Page};
use heartline_core::store::StoreError;
use heartline_core::store::conversations::{Added, Membership};

use super::BadCursor;
use super::pages::{decode_cursor, encode_cursor};
use crate::gateway::Gateway;

impl Gateway {
    /// The members of a conversation by their ids, at most `limit` from `cursor` on.
    ///
    /// # Errors
    /// When the cursor is none; within, when the store has no answer.
    pub async fn conversation_members(
        &self,
        tenant_id: Option<&str>,
        conversation_id: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Result<Page<ConversationMember>, StoreError>, BadCursor> {
        let after: Option<(String, Option<String>)> = match cursor.filter(|text| !text.is_empty()) {
            Some(cursor) => {
                let key = decode_cursor(cursor)?;
                Some(serde_json::from_str(&key).map_err(|_| BadCursor)?)
            }
            None => None,
        };
        let after = after.map(|(user_id, user_type)| UserKey {
            tenant_id: tenant_id.map(Into::into),
            user_id: user_id.into(),
            user_type: user_type.map(Into::into),
        });
        let members = match self.shared.members.all(tenant_id, conversation_id).await {
            Ok(members) => members,
            Err(error) => return Ok(Err(error)),
        };
        let is_next = |user: &UserKey| after.as_ref().is_none_or(|after| user > after);
        let mut rest = members.into_iter().filter(|member| is_next(&member.user));
        let items: Vec<ConversationMember> = rest
            .by_ref()
            .take(limit)
            .map(|member| ConversationMember {
                user_id: member.user.user_id.to_string(),
                user_type: member.user.user_type.as_ref().map(ToString::to_string),
                invited: member.membership == Membership::Invited,
                joined_at: member.joined_at,
                read_offset: member.read_offset,
            })
            .collect();
        let next_cursor = match (items.last(), rest.next()) {
            (Some(last), Some(_)) => {
                let key = serde_json::to_string(&(&last.user_id, &last.user_type));
                Some(encode_cursor(&key.unwrap_or_default()))
            }
            _ => None,
        };
        Ok(Ok(Page {
            items,
            next_cursor,
            missing: Missing::default(),
        }))
    }

    /// Makes users members of a conversation of their tenant, whatever their tokens say of it;
    /// who hears the room is told. What became of each, or that the store cannot keep it.
    pub async fn add_members(
        &self,
        conversation_id: &str,
        users: &[Arc<UserKey>],
    ) -> Vec<Result<Added, StoreError>> {
        let members = &self.shared.members;
        let add = |user| members.add(conversation_id, user, Membership::Invited);
        // All are asked for at once: what waits together is one transaction.
        let adding: Vec<_> = users.iter().map(add).collect();
        let mut added = Vec::new();
        for one in adding {
            added.push(one.await);
        }
        added
    }

    /// Ends a membership; whether there was one. The user's sockets leave the conversation's
    /// room, unless their tokens open it; who hears the room is told.
    ///
    /// # Errors
    /// When the store cannot do it.
    pub async fn remove_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> Result<bool, StoreError> {
        self.shared.members.remove(conversation_id, user).await
    }
}

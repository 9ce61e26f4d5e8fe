//! Tokens: verifying what clients bring, signing what operators ask for.

mod crypto;
pub(crate) mod jwks;
pub(crate) mod jwt;
pub(crate) mod key;
pub(crate) mod refusal;
pub(crate) mod sign;

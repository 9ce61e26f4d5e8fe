//! Tokens: verifying what clients bring, signing what operators ask for.

pub(crate) mod jwks;
pub(crate) mod jwt;
pub(crate) mod sign;

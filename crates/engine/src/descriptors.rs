//! How many descriptors the process may have.

use std::io;

use rlimit::Resource;

/// Raises the limit of descriptors (`RLIMIT_NOFILE`) to what the system allows this process,
/// and logs it: every connection takes one. Answers the limit that holds from now on.
///
/// # Errors
/// When the system refuses; the limit is what it was.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = Resource::NOFILE.get()?;
    if soft < hard {
        Resource::NOFILE.set(hard, hard)?;
    }
    tracing::info!(limit = hard, before = soft, "the limit of file descriptors");
    Ok(hard)
}

/// The limit that holds; as good as none where it is not known.
pub(crate) fn limit() -> usize {
    Resource::NOFILE
        .get_soft()
        .ok()
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

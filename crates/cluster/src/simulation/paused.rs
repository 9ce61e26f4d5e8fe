//! The virtual clock.

/// Runs to the end on one thread, on a clock that moves when everybody waits.
pub(super) fn paused(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work);
}

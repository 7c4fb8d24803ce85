//! What linehub asks of glibc's allocator, so that the bound on its memory is one on the process's.

/// Has all threads allocate from one arena. Left to itself, glibc gives each its own, and what one
/// thread frees in another's is of no use to the first: a buffer's worth of batches could then be held
/// free once in each. To be called before there are threads.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: mallopt(3) may be called at any time; a parameter that it does not know changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Hands what a storm left free back to the system. Left to itself, glibc keeps whatever lies below
/// the last small piece that is still in use.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: malloc_trim(3) may be called at any time from any thread; it only releases pages that
    // hold nothing.
    unsafe {
        libc::malloc_trim(0);
    }
}

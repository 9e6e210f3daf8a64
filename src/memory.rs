//! The allocator, and how it gives memory back where the kernel has huge pages.
//!
//! Many small short-lived allocations per request, freed on the thread that made them: what mimalloc is made for. As it
//! comes, it gives back the freed parts of huge pages, which splits them. The kernel's khugepaged (admin-guide/mm/transhuge
//! in its documentation) makes whole ones of them again minutes later, so that memory grows in steps without any change in
//! the load. Giving back whole huge pages where it can is steadier and takes less CPU, and more memory; "Huge pages" in
//! BENCHMARKS.md has how much.
#![allow(unsafe_code, reason = "options of the allocator have no other interface but the environment")]

use std::ffi::{c_int, c_long};

use libmimalloc_sys::mi_option_set_default;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The place of `mi_option_allow_thp` in mimalloc.h, for which the bindings have no name.
const ALLOW_THP: c_int = 43;
/// Its value for: there may be huge pages, and what is given back is looked for in their size. A huge page whose parts were
/// all freed once, but not all at the same time, may be split all the same.
const WHOLE_HUGE_PAGES: c_long = 2;

// Another number of options is another list: look the place up again, and see to the test below.
const _: () = assert!(libmimalloc_sys::_mi_option_last == 47, "the options of mimalloc have changed");

/// Gives back whole huge pages where it can, unless the environment has `MIMALLOC_ALLOW_THP`, which the allocator has read
/// for itself. To be called before any other thread is started.
pub fn give_back_whole_huge_pages() {
    // SAFETY: only the calling thread runs, which is all that it asks for; the place is checked to be in the list.
    unsafe { mi_option_set_default(ALLOW_THP, WHOLE_HUGE_PAGES) }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: nobody sets options in this process; the places are in the list.
        let around = [-1, 0, 1].map(|step| unsafe { mi_option_get(ALLOW_THP + step) });
        // page_cross_thread_max_reclaim, allow_thp, minimal_purge_size: the defaults of mimalloc's src/options.c.
        assert_eq!(around, [32, 1, 0]);
        give_back_whole_huge_pages();
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(ALLOW_THP) }, WHOLE_HUGE_PAGES);
    }
}

//! The program's allocator: mimalloc, asked for blocks without an alignment where any will do.

#![expect(unsafe_code, reason = "a global allocator, and a call that the allocator's crate has no safe name for")]

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};

/// Alignment that each of mimalloc's blocks of at least so many octets has (its
/// `MI_MAX_ALIGN_SIZE`); a smaller block has that of its size.
const NATURAL: usize = 16;

/// Mimalloc by way of its plain functions: the aligned ones, which its crate calls for everything,
/// ask for 7 octets more than needed unless the size is a power of two or a page of that size is
/// at hand. A message of 16 octets takes 90 instructions and up to 16 octets less this way.
pub struct Allocator;

fn is_natural(size: usize, align: usize) -> bool {
    align <= NATURAL && align <= size
}

// SAFETY: all four pass on to mimalloc, whose blocks may be freed and resized by any of its
// functions, whichever made them. `alloc` and `alloc_zeroed` take a plain block only for an
// alignment of at most 16 that is no larger than the size: such a block begins at a multiple of 16,
// or, below 16 octets, of 8, and no power of two larger than 8 is at most such a size. The caller
// keeps `GlobalAlloc`'s contract, which is the one that is passed on.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_natural(layout.size(), layout.align()) {
            true => unsafe { libmimalloc_sys::mi_malloc(layout.size()) }.cast(),
            false => unsafe { MiMalloc.alloc(layout) },
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_natural(layout.size(), layout.align()) {
            true => unsafe { libmimalloc_sys::mi_zalloc(layout.size()) }.cast(),
            false => unsafe { MiMalloc.alloc_zeroed(layout) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match is_natural(size, layout.align()) {
            true => unsafe { libmimalloc_sys::mi_realloc(block.cast(), size) }.cast(),
            false => unsafe { MiMalloc.realloc(block, layout, size) },
        }
    }
}

/// Gives memory that is free back to the system: mimalloc does so only while it is used.
pub fn give_back() {
    // SAFETY: `mi_collect` takes no pointer, may be called by any thread at any time once the
    // allocator is in use, and frees only pages without a live block; it is the global allocator,
    // so that it is in use before `main`.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

//! The `thousandx` binary: allocator, command line, settings, logging, dispatch, exit code.

// Many small short-lived allocations per request, freed on the thread that made them: what mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {}

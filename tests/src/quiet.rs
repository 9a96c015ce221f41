//! Who runs beside whom: most tests share the machine, one that measures a time has it alone.

use std::cell::Cell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    /// How many guards this thread holds: a second one must not wait for the first.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Held while a test uses the machine.
#[derive(Debug)]
pub struct Turn {
    shared: Option<RwLockReadGuard<'static, ()>>,
    alone: Option<RwLockWriteGuard<'static, ()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        HELD.with(|held| held.set(held.get() - 1));
        self.shared.take();
        self.alone.take();
    }
}

/// The machine together with other tests.
pub fn shared() -> Turn {
    let first = HELD.with(|held| held.replace(held.get() + 1)) == 0;
    let guard = || MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    Turn {
        shared: first.then(guard),
        alone: None,
    }
}

/// The machine for this test alone: take it first, before the mesh is started.
pub fn alone() -> Turn {
    let first = HELD.with(|held| held.replace(held.get() + 1)) == 0;
    let guard = || MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    Turn {
        shared: None,
        alone: first.then(guard),
    }
}

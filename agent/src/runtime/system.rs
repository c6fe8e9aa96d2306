//! Which goroutines belong to the runtime.

/// True if a goroutine with that start function is one of the runtime's own, as `runtime.NumGoroutine` counts.
///
/// The rule of `isSystemGoroutine` (`runtime/traceback.go`). The runtime shows its finalizer and cleanup goroutines
/// ([`calls_users`]) in dumps while they run user code: their stacks tell. `NumGoroutine` never counts them.
#[must_use]
pub fn is_system_goroutine(start_function: &str) -> bool {
    const USERS: [&str; 3] = ["runtime.main", "runtime.corostart", "runtime.handleAsyncEvent"];
    start_function.starts_with("runtime.") && !USERS.contains(&start_function)
}

/// True for the runtime's goroutines that call finalizers and cleanups of the user's: `runfinq` up to Go 1.24.
#[must_use]
pub fn calls_users(start_function: &str) -> bool {
    matches!(start_function, "runtime.runfinq" | "runtime.runFinalizers" | "runtime.runCleanups")
}

#[cfg(test)]
mod tests {
    use super::is_system_goroutine;

    #[test]
    fn the_rule_of_the_runtime() {
        for system in ["runtime.gcBgMarkWorker", "runtime.runfinq", "runtime.GC", "runtime.bgsweep"] {
            assert!(is_system_goroutine(system), "{system}");
        }
        for user in ["runtime.main", "runtime.corostart", "main.main", "runtime/pprof.profileWriter", "", "time.goFunc"]
        {
            assert!(!is_system_goroutine(user), "{user}");
        }
    }
}

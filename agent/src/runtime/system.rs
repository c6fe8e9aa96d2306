//! Which goroutines belong to the runtime.

/// Whether a goroutine with that start function is one of the runtime's own, as `runtime.NumGoroutine` counts.
///
/// The rule of `isSystemGoroutine` (`runtime/traceback.go`). The runtime counts its finalizer and cleanup goroutines
/// as the user's while they run user code; seen from outside they are the runtime's always.
#[must_use]
pub fn is_system_goroutine(start_function: &str) -> bool {
    const USERS: [&str; 3] = ["runtime.main", "runtime.corostart", "runtime.handleAsyncEvent"];
    start_function.starts_with("runtime.") && !USERS.contains(&start_function)
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

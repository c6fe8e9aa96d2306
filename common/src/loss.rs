//! Everything that can go missing has a name here, and is shown under it in every view.

macro_rules! losses {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $index:literal: $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name { $($(#[$variant_doc])* $variant = $index,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The number of them.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in JSON, tables and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

losses! {
    /// Losses of one process. The events themselves are counted in its totals even then.
    ProcessLoss {
        /// The site map was full: births, exits counted without their site.
        SiteMapFull = 0: "site_map_full",
        /// The wait map was full: parks counted without site and reason.
        WaitMapFull = 1: "wait_map_full",
        /// The fields of a `g` could not be read: event counted without its site.
        GoroutineUnreadable = 2: "goroutine_unreadable",
        /// The start function of a new goroutine could not be read: birth counted at its site, start function unknown.
        StartUnreadable = 3: "start_unreadable",
        /// The ring buffer was full: a site's creation stack is sent with a later birth. No count is affected.
        StackDropped = 4: "creation_stack_dropped",
        /// The map of a story's goroutines was full: a wait or a lifetime is not in it.
        GoroutineMapFull = 5: "goroutine_map_full",
        /// A map of a story's times was full: a wait or a lifetime is not in it, or not at its site.
        TimeMapFull = 6: "time_map_full",
        /// Probes had no breakpoint in the process's code: it was moved, or written over. Its events went uncounted, and it is
        /// watched by census alone. Counted by the agent.
        BreakpointMissing = 7: "breakpoint_missing",
        /// The caller of a birth, or the goid, could not be kept or read: the live ones of its site are not all told apart by
        /// caller. No count of a site is affected.
        CallerUnknown = 8: "caller_unknown",
    }
}

losses! {
    /// Losses that belong to no process.
    HostLoss {
        /// The process map was full: a process was not counted at all.
        ProcessMapFull = 0: "process_map_full",
        /// The ring buffer was full: the agent learns of a process's start or exec later, from /proc.
        LifecycleDropped = 1: "process_event_dropped",
        /// The map of unattributed counts was full: such events of some process went uncounted.
        UnattributedFull = 2: "unattributed_map_full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, loss) in ProcessLoss::ALL.iter().enumerate() {
            assert_eq!(*loss as usize, position);
        }
        for (position, loss) in HostLoss::ALL.iter().enumerate() {
            assert_eq!(*loss as usize, position);
        }
    }
}

//! The shapes of leaks that have a name. docs/leaks.md has a section for each.

/// A shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// Senders whose receiver went away.
    AbandonedSender,
    /// Receivers to whom nobody sends, and nobody closes the channel.
    MissingSender,
    /// A `select` none of whose cases comes.
    StuckSelect,
    /// An operation on a nil channel.
    NilChannel,
    /// `select {}`.
    EmptySelect,
    /// A lock that is not unlocked.
    HeldLock,
    /// Locks taken in different order.
    LockOrder,
    /// A `sync.WaitGroup` that nobody lowers.
    WaitGroup,
    /// A `sync.Cond` that nobody signals.
    Condition,
    /// Loops on a ticker or on sleep that never end.
    TimerLoop,
    /// Functions of `time.AfterFunc` that do not return.
    AfterFunc,
    /// Bodies of HTTP responses that are not closed.
    ResponseBody,
    /// HTTP connections kept idle by transports nobody uses any more.
    IdleConnection,
    /// Requests to another server without a time limit.
    StuckUpstream,
    /// Reads or writes of a connection without a deadline.
    NetworkRead,
    /// Rows, statements or transactions of `database/sql` that are not closed.
    DatabaseRows,
    /// Waiting for a connection of an exhausted `sql.DB`.
    DatabasePool,
    /// Contexts that are not cancelled.
    Context,
    /// A finalizer or cleanup that blocks all others.
    Finalizer,
    /// System calls that do not return.
    Syscall,
    /// Goroutines that run and run.
    Spinning,
    /// Goroutines that come and do not go, in a shape without a name.
    Growth,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::AbandonedSender,
        Self::MissingSender,
        Self::StuckSelect,
        Self::NilChannel,
        Self::EmptySelect,
        Self::HeldLock,
        Self::LockOrder,
        Self::WaitGroup,
        Self::Condition,
        Self::TimerLoop,
        Self::AfterFunc,
        Self::ResponseBody,
        Self::IdleConnection,
        Self::StuckUpstream,
        Self::NetworkRead,
        Self::DatabaseRows,
        Self::DatabasePool,
        Self::Context,
        Self::Finalizer,
        Self::Syscall,
        Self::Spinning,
        Self::Growth,
    ];

    /// Its name in JSON and metrics, and its section of docs/leaks.md.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AbandonedSender => "abandoned-sender",
            Self::MissingSender => "missing-sender",
            Self::StuckSelect => "stuck-select",
            Self::NilChannel => "nil-channel",
            Self::EmptySelect => "empty-select",
            Self::HeldLock => "held-lock",
            Self::LockOrder => "lock-order",
            Self::WaitGroup => "wait-group",
            Self::Condition => "condition",
            Self::TimerLoop => "timer-loop",
            Self::AfterFunc => "after-func",
            Self::ResponseBody => "response-body",
            Self::IdleConnection => "idle-connection",
            Self::StuckUpstream => "stuck-upstream",
            Self::NetworkRead => "network-read",
            Self::DatabaseRows => "database-rows",
            Self::DatabasePool => "database-pool",
            Self::Context => "context",
            Self::Finalizer => "finalizer",
            Self::Syscall => "syscall",
            Self::Spinning => "spinning",
            Self::Growth => "growth",
        }
    }

    /// The shape in one sentence.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::AbandonedSender => "they send to a channel that nobody receives from",
            Self::MissingSender => "they receive from a channel that nobody sends to and nobody closes",
            Self::StuckSelect => "no case of their select comes",
            Self::NilChannel => "they wait on a nil channel, which is for ever",
            Self::EmptySelect => "they wait in select {}, which is for ever",
            Self::HeldLock => "they wait for a lock that is not unlocked",
            Self::LockOrder => "they wait for locks that were taken in different order",
            Self::WaitGroup => "they wait for a WaitGroup that nobody lowers",
            Self::Condition => "they wait for a condition that nobody signals",
            Self::TimerLoop => "they loop on a timer and nothing ends the loop",
            Self::AfterFunc => "functions of time.AfterFunc that do not return",
            Self::ResponseBody => "bodies of HTTP responses are neither read to the end nor closed",
            Self::IdleConnection => "HTTP connections stay open idle and ever more are opened",
            Self::StuckUpstream => "they wait for another server's answer without a time limit",
            Self::NetworkRead => "they wait for a connection's other end without a deadline",
            Self::DatabaseRows => "rows, statements or transactions are not closed",
            Self::DatabasePool => "they wait for a database connection and none is given back",
            Self::Context => "a context is not cancelled",
            Self::Finalizer => "a finalizer or cleanup blocks, and with it all others",
            Self::Syscall => "a system call does not return",
            Self::Spinning => "they run without end",
            Self::Growth => "goroutines come and do not go",
        }
    }

    /// Observation that would make it certain.
    #[must_use]
    pub fn proof(self) -> &'static str {
        match self {
            Self::AbandonedSender => {
                "in the function that makes the channel, a return before the receive; room for one element \
                 (make(chan T, 1)) would end them"
            }
            Self::MissingSender => {
                "whoever should send or close returned without: look for the paths that leave it out"
            }
            Self::StuckSelect => "the context or channel that should end them: look for who cancels or closes it",
            Self::NilChannel => "a channel variable that was never made, or set to nil while somebody waits",
            Self::EmptySelect => "select {} outside of main",
            Self::HeldLock => "a path that returns without Unlock, or waits for something else while it holds the lock",
            Self::LockOrder => "two functions that take the same two locks, each in its own order",
            Self::WaitGroup => "Add without Done: a path that returns, or panics, before Done",
            Self::Condition => "Wait whose condition is made true without Signal or Broadcast",
            Self::TimerLoop => "a loop without a case for the end of what it serves (ctx.Done())",
            Self::AfterFunc => "what the timer's function waits for",
            Self::ResponseBody => "a call of the client without `defer response.Body.Close()` on every path",
            Self::IdleConnection => {
                "http.Transport or http.Client made per request: make one, or call CloseIdleConnections"
            }
            Self::StuckUpstream => "http.Client without Timeout, or a request without a context that ends",
            Self::NetworkRead => "a connection without SetDeadline, and a peer that is silent",
            Self::DatabaseRows => "Query without `defer rows.Close()`, Begin without Commit or Rollback",
            Self::DatabasePool => "rows or transactions that are not closed: who holds the connections",
            Self::Context => "context.WithCancel whose cancel function is not called on every path",
            Self::Finalizer => "what the finalizer waits for",
            Self::Syscall => "what the system call waits for: the peer, the device, the child process",
            Self::Spinning => "a CPU profile of these goroutines, and the loop's condition",
            Self::Growth => "what should end them, and whether it happens: the stack says where they are",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn each_has_a_name_and_a_section_of_its_own() {
        let docs = include_str!("../../../docs/leaks.md");
        for (index, pattern) in Pattern::ALL.into_iter().enumerate() {
            assert!(Pattern::ALL.iter().skip(index + 1).all(|other| other.name() != pattern.name()));
            assert!(docs.contains(&format!("\n## {}\n", pattern.name())), "{}", pattern.name());
        }
    }
}

//! Harness for tests of parkranger against real Go programs.

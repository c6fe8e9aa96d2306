//! Addresses are types: which space a number lives in is never left to its name.
//!
//! | type | space | who sees it |
//! |---|---|---|
//! | [`FileOffset`] | bytes from the start of a file | uprobes (the kernel attaches by inode and offset), `pread` |
//! | [`VirtAddr`] | the address a binary's ELF headers, symbols, gopclntab and DWARF use | everything read from a file |
//! | [`RuntimeAddr`] | an address in the memory of one process | registers, stacks, `g` structs |
//!
//! `RuntimeAddr = VirtAddr + bias`, where the bias is 0 for a fixed-address executable and chosen at load for a
//! position-independent one.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// This address moved up by `bytes`, or `None` if that leaves the 64-bit space.
            #[must_use]
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// Bytes from the start of a file.
    FileOffset
}
address! {
    /// An address as the binary's own ELF headers count it, before any load bias.
    VirtAddr
}
address! {
    /// An address in the memory of one process, after the load bias.
    RuntimeAddr
}

/// The distance a binary was moved when it was loaded: `RuntimeAddr - VirtAddr`, the same for every address of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bias(pub u64);

impl Bias {
    /// Where `address` of the file is in the process. Wraps like the hardware does: a bias may be "negative".
    #[must_use]
    pub fn to_runtime(self, address: VirtAddr) -> RuntimeAddr {
        RuntimeAddr(address.0.wrapping_add(self.0))
    }

    /// Which address of the file `address` of the process is. Only meaningful inside the binary's own mappings.
    #[must_use]
    pub fn to_virt(self, address: RuntimeAddr) -> VirtAddr {
        VirtAddr(address.0.wrapping_sub(self.0))
    }

    /// The same for an address that may be unknown: 0 stays 0.
    #[must_use]
    pub fn to_virt_or_zero(self, address: RuntimeAddr) -> VirtAddr {
        if address.0 == 0 { VirtAddr(0) } else { self.to_virt(address) }
    }
}

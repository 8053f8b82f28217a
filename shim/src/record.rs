//! To be written.

/// Stand-in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Floor's digest.
    pub floor: Option<String>,
    /// Pod's digest.
    pub pod: Option<String>,
}

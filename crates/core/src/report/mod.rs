//! The replies of INSPECT and LIST. The module formats them.

pub mod glob;
pub mod inspect;
pub mod introspect;
pub mod list;
pub mod scan;

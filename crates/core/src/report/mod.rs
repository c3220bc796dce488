//! What the manager reports: the rows of INSPECT and LIST. Formats
//! and protocols belong to the module.

pub mod glob;
pub mod inspect;
pub mod introspect;
pub mod list;

//! What the lab prints.

mod diagram;
pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod tap;
pub(crate) mod text;

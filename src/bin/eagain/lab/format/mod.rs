//! What the lab prints.

pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod tap;
pub(crate) mod text;

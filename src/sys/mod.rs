//! The kernel boundary: the only module that may say `unsafe`.

//! eagain: serve, measure, prove — on raw Linux epoll.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod sys;

//! eagain: serve, measure, prove — on raw Linux epoll.
#![deny(unsafe_code)]

pub mod buffer;
pub mod deadline;
pub mod limits;
pub mod slab;
#[allow(unsafe_code)]
pub mod sys;
pub struct Handle;
impl Handle {
    pub fn send() {}
    pub fn broadcast() {}
}
pub trait Service {
    fn room() {}
    fn input_limit() {}
}

//! What an experiment is, and the one list of all of them.

use super::rules;
use super::stage::{Lie, Mask, Stage};
use super::verdict::Outcome;

/// One statement about epoll, or about what stands around it, that can be tried here and now.
#[derive(Clone, Copy)]
pub(crate) struct Experiment {
    /// Never changes, so that results of different kernels and years can be compared.
    pub(crate) id: &'static str,
    /// Whether a re-implementation of epoll is incomplete without it.
    pub(crate) core: bool,
    /// The statement.
    pub(crate) claim: &'static str,
    /// Who says so; where the manual is silent or vague, what else does.
    pub(crate) source: &'static str,
    /// What happens to a server whose author does not know it.
    pub(crate) why: &'static str,
    /// The first Linux of which it is true; on an older one it is not tested.
    pub(crate) since: (u16, u16),
    /// Which kernels differ, and how; empty if none is known.
    pub(crate) changed: &'static str,
    /// Performs it. Read this to learn the rule.
    pub(crate) run: fn(&Stage) -> Outcome,
    /// A kernel, or a program, for which the statement is not true; the verdict must then turn.
    pub(crate) mutation: Mutation,
}

/// How the stage spoils an experiment, to prove that it can fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mutation {
    /// Every registration loses these bits: the mode is another one, a flag is forgotten.
    Without(Mask),
    /// Every registration gets these bits as well.
    With(Mask),
    /// The n-th (from 1) call of this name answers something else than the kernel did.
    Fake(&'static str, u32, Lie),
}

/// Experiments about one subject.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) experiments: &'static [Experiment],
}

/// All experiments, in the order in which they are to be read.
pub(crate) fn all() -> impl Iterator<Item = (&'static Group, &'static Experiment)> {
    rules::ALL.iter().flat_map(|group| group.experiments.iter().map(move |experiment| (*group, experiment)))
}

pub(crate) fn find(id: &str) -> Option<(&'static Group, &'static Experiment)> {
    all().find(|(_, experiment)| experiment.id == id)
}

/// Registrations lose `bits`.
pub(super) const fn without(bits: Mask) -> Mutation {
    Mutation::Without(bits)
}

/// Registrations get `bits` as well.
pub(super) const fn with(bits: Mask) -> Mutation {
    Mutation::With(bits)
}

/// The n-th wait, whichever epoll it is on, reports these masks whatever the kernel said.
pub(super) const fn fake_wait(nth: u32, masks: &'static [Mask]) -> Mutation {
    Mutation::Fake("epoll_wait", nth, Lie::Events(masks))
}

/// The n-th call of this name, or the n-th thing that the stage saw by this name, is answered by a lie.
pub(super) const fn fake(call: &'static str, nth: u32, lie: Lie) -> Mutation {
    Mutation::Fake(call, nth, lie)
}

/// The experiments of a group that has more than one file: those of `first`, then those of `second`.
pub(super) const fn join<const A: usize, const B: usize, const SUM: usize>(
    first: [Experiment; A],
    second: [Experiment; B],
) -> [Experiment; SUM] {
    let mut all = [first[0]; SUM];
    let mut at = 1;
    while at < SUM {
        all[at] = if at < A { first[at] } else { second[at - A] };
        at += 1;
    }
    all
}

//! Why a process has no descriptor to show: it has ended, or it never had one.

use crate::say;

/// A thread of the kernel's: PF_KTHREAD of include/linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What /proc/PID/stat says about the life of a process.
struct Life {
    state: char,
    parent: u32,
    flags: u64,
    threads: u64,
}

impl Life {
    fn of(pid: u32) -> Option<Self> {
        parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// It has ended, and is there only until its parent asks how.
    fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }
}

/// `number (name) state parent …`, where a name may have brackets and spaces; flags are the 9th, threads the 20th.
fn parse(stat: &str) -> Option<Life> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at - 3).and_then(|field| field.parse().ok());
    Some(Life {
        state: fields.first()?.chars().next()?,
        parent: number(4)? as u32,
        flags: number(9)?,
        threads: number(20)?,
    })
}

/// Whether nobody, not even root, can see a descriptor of it.
pub(super) fn is_over(pid: u32) -> bool {
    Life::of(pid).is_some_and(|life| life.is_zombie() || life.is_kernel_thread())
}

/// Why nothing is there to be shown, in one line.
pub(super) fn nothing_in(pid: u32, name: &str) -> String {
    let name = say::one_line(name);
    match Life::of(pid) {
        None => format!("process {pid} ({name}) has ended"),
        Some(life) if life.is_kernel_thread() => {
            format!("process {pid} ({name}) is a thread of the kernel: it has no descriptors, and so no epoll")
        }
        Some(life) if life.is_zombie() && life.threads > 1 => {
            format!("the first thread of process {pid} ({name}) has ended: ask for another of /proc/{pid}/task")
        }
        Some(life) if life.is_zombie() => {
            format!("process {pid} ({name}) has ended, and its parent, process {}, has not waited for it", life.parent)
        }
        Some(_) => format!("process {pid} ({name}) has no epoll"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let stat = "7 (a) Z (b) S 1 7 7 0 -1 4194560 170 0 0 0 0 0 0 0 20 0 3 0 25";
        let life = parse(stat).expect("a line of the kernel");
        assert_eq!((life.state, life.parent, life.flags, life.threads), ('S', 1, 4_194_560, 3));
        assert!(!life.is_zombie() && !life.is_kernel_thread());
        assert!(parse("").is_none() && parse("7 (x) Z 1").is_none());
    }
}

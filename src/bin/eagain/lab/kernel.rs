//! Which kernel runs here.

/// As `uname -r` prints it.
pub(crate) fn release() -> String {
    told("osrelease")
}

/// As `uname -v` prints it.
pub(crate) fn build() -> String {
    told("version")
}

fn told(name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    text.trim().to_owned()
}

/// `(6, 18)` of "6.18.5-arch1-1"; zeros if it cannot be read.
pub(crate) fn version() -> (u16, u16) {
    parse(&release())
}

pub(crate) fn parse(release: &str) -> (u16, u16) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_numbers_of_a_release_are_the_version() {
        assert_eq!(parse("6.18.5-arch1-1"), (6, 18));
        assert_eq!(parse("5.10.0-26-cloud-amd64"), (5, 10));
        assert_eq!(parse(""), (0, 0));
    }
}

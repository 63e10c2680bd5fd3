//! What the owner of a host can do about an error of the system: of no use is a line in the log that names the setting in whose
//! work the error came up.
use std::io;

use nix::errno::Errno;

/// What is to be changed, outside of the configuration; None where nothing is known.
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error().map(Errno::from_raw)? {
        Errno::EMFILE => Some("the limit on open files of the process (ulimit -n)"),
        Errno::ENFILE => Some("the limit on open files of the system (sysctl fs.file-max)"),
        Errno::EADDRNOTAVAIL => Some("the addresses of this host (ip address)"),
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => Some("the routes of this host (ip route)"),
        Errno::ENOMEM | Errno::ENOBUFS => Some("the memory of this host"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_setting_is_to_blame_for_is_named() {
        let of = |errno: Errno| remedy(&errno.into());
        assert!(of(Errno::EMFILE).is_some_and(|text| text.contains("ulimit -n")));
        assert!(of(Errno::EADDRNOTAVAIL).is_some_and(|text| text.contains("addresses")));
        assert_eq!(of(Errno::ENOENT), None);
        assert_eq!(remedy(&io::ErrorKind::AddrInUse.into()), None);
    }
}

//! A process beside the server that can start programs, which the server in its sandbox cannot.
//!
//! An order names one of the programs that were known when it was forked by its number, and brings values for it: whoever takes
//! the server over can have those run, and no other.
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use crate::os::ready::{Want, wait};
use crate::server::beside;

/// Bytes of one order: less than what a socket takes at once.
const LONGEST: usize = 128 * 1024;

/// The server's end.
#[derive(Debug)]
pub struct Helper(OwnedFd);

impl Helper {
    /// Forks. Over there `run` is called for each order, with the number of the program and the values, and must not wait for
    /// it; `end` is called last. Must happen while the process has one thread.
    ///
    /// # Errors
    /// Those of socketpair(2) and fork(2).
    pub fn start(run: impl FnMut(usize, Vec<Vec<u8>>), end: impl FnOnce()) -> io::Result<Self> {
        let life = |orders: &OwnedFd| {
            obey(orders, run);
            end();
        };
        beside::start(c"hooks", life).map(Self)
    }

    /// Has the program of this number run. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` when too many orders wait, `BrokenPipe` when there is no helper any more, `InvalidInput` for too many
    /// bytes.
    pub fn order(&self, program: usize, values: &[&[u8]]) -> io::Result<()> {
        let order = encode(program, values);
        if order.len() > LONGEST {
            return Err(ErrorKind::InvalidInput.into());
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.0.as_raw_fd(), &order, flags)?;
        Ok(())
    }

    /// Says that there will be no more orders, and waits at most so long until the helper has ended: whether it has.
    pub fn end(&self, time: Duration) -> bool {
        if shutdown(self.0.as_raw_fd(), Shutdown::Write).is_err() {
            return true;
        }
        let ended = wait(
            [Some((self.0.as_fd(), Want::Hangup))],
            Some(Instant::now() + time),
        );
        ended.is_ok_and(|[ended]| ended.hangup)
    }
}

/// The helper's life.
fn obey(orders: &OwnedFd, mut run: impl FnMut(usize, Vec<Vec<u8>>)) {
    let mut order = vec![0; LONGEST];
    loop {
        match recv(orders.as_raw_fd(), &mut order, MsgFlags::empty()) {
            Ok(0) => return,
            Ok(length) => match decode(&order[..length]) {
                Some((program, values)) => run(program, values),
                None => log::error!("an order that is none came from the server"),
            },
            Err(Errno::EINTR) => {}
            Err(errno) => {
                log::error!("programs cannot be started any more: {errno}");
                return;
            }
        }
    }
}

/// The number and the values, each behind its length.
fn encode(program: usize, values: &[&[u8]]) -> Vec<u8> {
    let mut order = (program as u64).to_le_bytes().to_vec();
    for value in values {
        order.extend((value.len() as u64).to_le_bytes());
        order.extend(*value);
    }
    order
}

fn decode(order: &[u8]) -> Option<(usize, Vec<Vec<u8>>)> {
    let number = |bytes: &[u8; 8]| usize::try_from(u64::from_le_bytes(*bytes)).ok();
    let (program, mut rest) = order.split_first_chunk()?;
    let mut values = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk()?;
        let (value, behind) = behind.split_at_checked(number(length)?)?;
        values.push(value.to_vec());
        rest = behind;
    }
    Some((number(program)?, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_given_and_others_are_none() {
        for values in [&[][..], &[&b"path"[..], b"", b"\n\0x"]] {
            let order = encode(3, values);
            let (program, decoded) = decode(&order).unwrap();
            assert_eq!(
                (program, decoded),
                (3, values.iter().map(|v| v.to_vec()).collect())
            );
            assert_eq!(decode(&order[..order.len() - 1]), None);
        }
        assert_eq!(decode(&[255; 16]), None);
        assert_eq!(decode(b""), None);
    }
}

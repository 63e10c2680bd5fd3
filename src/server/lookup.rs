//! Host names that the owner has written where an address is needed: a process beside the server looks them up, again and again,
//! for the server in its sandbox reaches no name service, and no session is to wait for one.
//!
//! The process sends what it has found where that is new, and takes nothing from the server.
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv, send};

use super::beside;
use crate::os::ready::{Want, wait};

/// Between two look-ups: names of dynamic DNS are to be found again soon.
const AGAIN: Duration = Duration::from_secs(300);
/// The same where a name was not found, for the network of a host that has just started may not be there yet.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(15);

/// Bytes of what is told of a name: its number and an IPv4 address.
const ANSWER: usize = 6;

/// What is known of the names. The default knows none.
#[derive(Debug, Default)]
pub struct Lookup {
    names: Vec<String>,
    /// The server's end; None without names.
    answers: Option<OwnedFd>,
    found: Mutex<HashMap<usize, Ipv4Addr>>,
}

impl Lookup {
    /// Begins to look the names up; without any there is no process. Must happen while the process has one thread.
    ///
    /// # Errors
    /// Those of socketpair(2) and fork(2).
    pub fn start(names: Vec<String>) -> io::Result<Self> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let answers = beside::start(c"lookup", |server| look_up(&names, server))?;
        Ok(Self {
            names,
            answers: Some(answers),
            found: Mutex::default(),
        })
    }

    /// Whether the name is looked up: names that come with a reload are not.
    pub fn knows(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The address that was found last; None where none was yet. Never waits.
    pub fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let number = self.names.iter().position(|known| known == name)?;
        let answers = self.answers.as_ref()?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = [0; ANSWER];
        while recv(answers.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) == Ok(ANSWER) {
            let [low, high, a, b, c, d] = answer;
            let number = u16::from_le_bytes([low, high]);
            found.insert(number.into(), Ipv4Addr::new(a, b, c, d));
        }
        found.get(&number).copied()
    }
}

/// The first IPv4 address of a name. Waits for the name service.
///
/// # Errors
/// Those of getaddrinfo(3); `NotFound` where the name has no IPv4 address.
pub fn first_v4(name: &str) -> io::Result<Ipv4Addr> {
    let mut addresses = (name, 0).to_socket_addrs()?;
    let first = addresses.find_map(|address| match address {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    });
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no IPv4 address"))
}

/// The life of the process beside the server.
fn look_up(names: &[String], server: &OwnedFd) {
    let mut told: HashMap<usize, Ipv4Addr> = HashMap::new();
    let mut failed = vec![false; names.len()];
    loop {
        for (number, name) in names.iter().enumerate() {
            let found = first_v4(name);
            if let Err(error) = &found {
                if !failed[number] {
                    log::warn!(
                        "{name} cannot be looked up: {error}; it is tried again (setting: external_address)"
                    );
                }
            }
            failed[number] = found.is_err();
            let Some(address) = found.ok().filter(|found| told.get(&number) != Some(found)) else {
                continue;
            };
            log::info!("{name} is {address} (setting: external_address)");
            let [a, b, c, d] = address.octets();
            let [low, high] = u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
            let answer: [u8; ANSWER] = [low, high, a, b, c, d];
            match send(server.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => told.insert(number, address),
                Err(_) => return,
            };
        }
        let again = match failed.contains(&true) {
            true => AGAIN_AFTER_FAILURE,
            false => AGAIN,
        };
        let ended = wait(
            [Some((server.as_fd(), Want::Hangup))],
            Some(Instant::now() + again),
        );
        if !ended.is_ok_and(|[ended]| !ended.hangup) {
            return;
        }
    }
}

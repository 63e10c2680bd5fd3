//! Connections whose clients have said nothing yet. They are greeted, and cost a descriptor and a few bytes here; a thread
//! takes over with the first byte that comes. Who is silent for too long is sent away, and when more come than there is room
//! for, the longest silent of the address that has most; where an address has all that one may have, its own longest silent.
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use super::Connection;
use super::sessions::most_crowded;
use crate::os::addresses::source;

/// In the order of their arrival.
#[derive(Debug, Default)]
pub struct Lobby {
    waiting: VecDeque<Connection>,
}

impl Lobby {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn enter(&mut self, connection: Connection) {
        self.waiting.push_back(connection);
    }

    /// Who is to make room for another.
    pub fn take_most_crowded(&mut self) -> Option<Connection> {
        let whose = self.waiting.iter();
        let whose = whose.map(|connection| source(connection.peer.ip()));
        self.waiting.remove(most_crowded(whose)?)
    }

    /// The longest silent one from there (see [`source`]).
    pub fn take_oldest_of(&mut self, whose: IpAddr) -> Option<Connection> {
        let mut waiting = self.waiting.iter();
        let index = waiting.position(|connection| source(connection.peer.ip()) == whose)?;
        self.waiting.remove(index)
    }

    /// The longest silent one.
    pub fn take_oldest(&mut self) -> Option<Connection> {
        self.waiting.pop_front()
    }

    /// When the longest silent one has had its time.
    pub fn deadline(&self, time: Duration) -> Option<Instant> {
        Some(self.waiting.front()?.accepted + time)
    }

    pub fn take_expired(&mut self, time: Duration) -> Option<Connection> {
        let deadline = self.deadline(time)?;
        (Instant::now() >= deadline)
            .then(|| self.take_oldest())
            .flatten()
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.waiting
            .iter()
            .map(|connection| connection.stream.as_fd())
    }

    /// Those that have something to say, by what the system said of [`Lobby::fds`].
    pub fn take_ready(&mut self, ready: &[bool]) -> Vec<Connection> {
        if !ready.contains(&true) {
            return Vec::new();
        }
        let mut speaking = Vec::new();
        let mut silent = VecDeque::with_capacity(self.waiting.len());
        let ready = ready.iter().copied().chain(std::iter::repeat(false));
        for (connection, is_ready) in self.waiting.drain(..).zip(ready) {
            if is_ready {
                speaking.push(connection);
            } else {
                silent.push_back(connection);
            }
        }
        self.waiting = silent;
        speaking
    }
}

//! The control connection while data flows: what is answered at once, what ends the transfer, what waits (RFC 959
//! §4.1.3 ABOR, STAT). Which is which stands in the table.
use std::os::fd::BorrowedFd;

use super::{During, find};
use crate::ftp::control::{Control, Input};
use crate::ftp::data::watch::{Interruption, Supervisor};
use crate::ftp::protocol::command::Command;
use crate::ftp::protocol::line::Line;
use crate::ftp::protocol::reply::Reply;
use crate::os::ending::Ending;
use crate::os::ready::{Ready, Want};

/// Watches the control connection for the length of one transfer.
pub struct Interrupts<'a> {
    control: &'a mut Control,
    /// The transfer, for STAT.
    what: &'a str,
    /// The client may close the control connection and be taken at its word all the same.
    may_hang_up: bool,
    /// A command waits for the end of the transfer, and what follows it too, but for ABOR.
    holding: bool,
    /// The client has closed its side, and that is as it should be.
    closed_in_order: bool,
}

impl<'a> Interrupts<'a> {
    pub fn new(control: &'a mut Control, what: &'a str, may_hang_up: bool) -> Self {
        Self {
            control,
            what,
            may_hang_up,
            holding: false,
            closed_in_order: false,
        }
    }

    /// What had arrived before the transfer began: an ABOR ends it before it starts; anything else waits its turn, so
    /// that the replies to pipelined commands stay in order.
    pub fn begin(&mut self) -> Interruption {
        if self.aborts() {
            return Interruption::Abort;
        }
        self.holding = self.control.peek_line().is_some();
        if self.control.is_closed() {
            self.closed()
        } else {
            Interruption::None
        }
    }

    /// The client has closed its side: in order when a QUIT waits, or when it may do so.
    fn closed(&mut self) -> Interruption {
        let quit_waits = self
            .control
            .any_line(|line| verb_of(line) == Some(b"QUIT".to_vec()));
        if !quit_waits && !self.may_hang_up {
            return Interruption::Lost;
        }
        self.closed_in_order = true;
        Interruption::None
    }

    /// ABOR is heard whatever was said before it.
    fn aborts(&mut self) -> bool {
        (self.control).take_line(|line| at_once(line) == Some(During::Aborts))
    }

    /// Deals with the lines that have arrived.
    fn obey(&mut self, bytes: u64) -> Interruption {
        if self.aborts() {
            return Interruption::Abort;
        }
        while let Some(line) = self.control.peek_line().filter(|_| !self.holding) {
            let reply = match at_once(line) {
                Some(During::AnsweredAtOnce) if verb_of(line) == Some(b"STAT".to_vec()) => {
                    Reply::new(211, format!("{}: {bytes} bytes so far.", self.what))
                }
                Some(During::AnsweredAtOnce) => Reply::new(200, "NOOP ok; the transfer goes on."),
                _ => {
                    self.holding = true;
                    return Interruption::None;
                }
            };
            self.control.next_line();
            self.control.queue(&reply);
            if self.control.flush().is_err() {
                return Interruption::Lost;
            }
        }
        Interruption::None
    }
}

/// Whether ABOR has come, or the client is gone, while a reply is being made that nothing can come between.
pub fn interrupted(control: &mut Control) -> Interruption {
    control.fill();
    let mut interrupts = Interrupts::new(control, "", false);
    if interrupts.aborts() {
        return Interruption::Abort;
    }
    match interrupts.control.is_closed() {
        true => interrupts.closed(),
        false => Interruption::None,
    }
}

/// What a line does during a transfer; None when it is no command at all, which is answered in its turn.
fn at_once(line: &Line) -> Option<During> {
    let Line::Command(line) = line else {
        return None;
    };
    let command = Command::parse(line).ok()?;
    let verb = find(&command.verb)?;
    if verb.during == During::AnsweredAtOnce && !command.argument.is_empty() {
        return Some(During::Waits);
    }
    Some(verb.during)
}

fn verb_of(line: &Line) -> Option<Vec<u8>> {
    let Line::Command(line) = line else {
        return None;
    };
    Command::parse(line).ok().map(|command| command.verb)
}

impl Supervisor for Interrupts<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.control.fd()
    }

    fn ending(&self) -> &Ending {
        self.control.ending()
    }

    fn wants(&self) -> Option<Want> {
        match (self.closed_in_order, self.holding) {
            (true, _) => None,
            (false, true) if !self.control.has_room() => Some(Want::Hangup),
            (false, _) => Some(Want::Input),
        }
    }

    fn look(&mut self, ready: Ready, bytes: u64) -> Interruption {
        // Where no more is read, the end of the connection is all there is to see.
        let closed = match self.control.fill() {
            Input::Closed => true,
            Input::Some | Input::None => {
                self.control.is_closed() || (!self.control.has_room() && ready.hangup)
            }
        };
        let interruption = self.obey(bytes);
        if interruption != Interruption::None {
            return interruption;
        }
        if closed {
            self.closed()
        } else {
            Interruption::None
        }
    }
}

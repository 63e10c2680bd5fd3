//! Transfer parameters: TYPE, MODE, STRU, PORT, PASV (RFC 959 §4.1.2), EPRT, EPSV (RFC 2428).
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Answer;
use crate::config::Host;
use crate::ftp::data::open::{DataPort, PassivePort};
use crate::ftp::parameters::Representation;
use crate::ftp::protocol::hostport::{
    EpsvArgument, HostPortError, epsv_text, parse_eprt, parse_epsv, parse_port, pasv_text,
};
use crate::ftp::protocol::reply::Reply;
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::os::addresses::with_port;
use crate::os::remedy::remedy;

pub fn representation(session: &mut Session, argument: &[u8]) -> Answer {
    let mut argument = argument.to_ascii_uppercase();
    argument.retain(|byte| *byte != b' ');
    let (representation, text) = match argument.as_slice() {
        b"A" | b"AN" => (Representation::Ascii, "Type set to A."),
        b"I" | b"L8" => (Representation::Image, "Type set to I."),
        [b'A' | b'E' | b'L', ..] => {
            return Err(Refusal::new(504, "Only TYPE A, I and L 8 are offered."));
        }
        _ => return Err(Refusal::new(501, "There is no such type.")),
    };
    session.parameters.representation = representation;
    Ok(Reply::new(200, text))
}

pub fn mode(_: &mut Session, argument: &[u8]) -> Answer {
    match argument.to_ascii_uppercase().as_slice() {
        b"S" => Ok(Reply::new(200, "Mode set to S.")),
        b"B" | b"C" | b"Z" => Err(Refusal::new(504, "Only MODE S is offered.")),
        _ => Err(Refusal::new(501, "There is no such mode.")),
    }
}

pub fn structure(_: &mut Session, argument: &[u8]) -> Answer {
    match argument.to_ascii_uppercase().as_slice() {
        b"F" => Ok(Reply::new(200, "Structure set to F.")),
        b"R" | b"P" => Err(Refusal::new(504, "Only STRU F is offered.")),
        _ => Err(Refusal::new(501, "There is no such structure.")),
    }
}

pub fn port(session: &mut Session, argument: &[u8]) -> Answer {
    not_after_epsv_all(session)?;
    let address = parse_port(argument).map_err(malformed)?;
    connect_to(session, "PORT", SocketAddr::V4(address))
}

pub fn eprt(session: &mut Session, argument: &[u8]) -> Answer {
    not_after_epsv_all(session)?;
    let address = parse_eprt(argument).map_err(malformed)?;
    if address.is_ipv4() != session.connection.local.is_ipv4() {
        let offered = if session.connection.local.is_ipv4() {
            1
        } else {
            2
        };
        return Err(Refusal::new(
            522,
            format!("Network protocol not supported, use ({offered})"),
        ));
    }
    connect_to(session, "EPRT", address)
}

/// Only the client's own address, unless the user may have files sent between servers; never a system port, behind
/// which other services listen (RFC 2577 §3).
fn connect_to(session: &mut Session, verb: &str, address: SocketAddr) -> Answer {
    let fxp = session.visitor()?.account.fxp;
    if address.ip() != session.connection.peer.ip() && !fxp {
        return Err(
            Refusal::new(501, "Only your own address can be connected to.").logged(format!(
                "a data connection to the foreign address {address} (setting: fxp)"
            )),
        );
    }
    if address.port() < 1024 {
        return Err(Refusal::new(501, "Ports below 1024 are not connected to.")
            .logged(format!("a data connection to the system port {address}")));
    }
    // EPRT has no word for the link that a link-local address is on: its own address is the peer's.
    session.parameters.data_port =
        DataPort::Active(match address.ip() == session.connection.peer.ip() {
            true => with_port(session.connection.peer, address.port()),
            false => address,
        });
    Ok(Reply::new(200, format!("{verb} command successful.")))
}

pub fn pasv(session: &mut Session, _: &[u8]) -> Answer {
    not_after_epsv_all(session)?;
    let IpAddr::V4(local) = session.connection.local.ip() else {
        return Err(Refusal::new(
            425,
            "PASV has no room for an IPv6 address; use EPSV.",
        ));
    };
    let port = listen(session)?;
    let shown = shown_address(session, local);
    Ok(Reply::new(
        227,
        format!(
            "Entering Passive Mode {}.",
            pasv_text(SocketAddrV4::new(shown, port))
        ),
    ))
}

/// Behind a router, clients beyond it need its address; those on this side need ours.
fn shown_address(session: &Session, local: Ipv4Addr) -> Ipv4Addr {
    let external = &session.config.external_address;
    let told = external.for_client(
        session.connection.peer.ip(),
        session.connection.peer_is_private(),
    );
    match told {
        None => local,
        Some(Host::Address(address)) => *address,
        Some(Host::Name(name)) => {
            let found = session.service.shared.lookup.address_of(name);
            if found.is_none() {
                log::warn!(
                    "{}: PASV tells {local}, for the address of {name} is not known (setting: external_address)",
                    session.who()
                );
            }
            found.unwrap_or(local)
        }
    }
}

pub fn epsv(session: &mut Session, argument: &[u8]) -> Answer {
    let v4 = session.connection.local.is_ipv4();
    match parse_epsv(argument).map_err(malformed)? {
        EpsvArgument::All => {
            session.connection.epsv_all = true;
            return Ok(Reply::new(200, "EPSV ALL command successful."));
        }
        EpsvArgument::V4 if !v4 => {
            return Err(Refusal::new(522, "Network protocol not supported, use (2)"));
        }
        EpsvArgument::V6 if v4 => {
            return Err(Refusal::new(522, "Network protocol not supported, use (1)"));
        }
        EpsvArgument::Any | EpsvArgument::V4 | EpsvArgument::V6 => {}
    }
    let port = listen(session)?;
    Ok(Reply::new(
        229,
        format!("Entering Extended Passive Mode {}.", epsv_text(port)),
    ))
}

/// Opens a passive port; the former one closes first.
fn listen(session: &mut Session) -> Result<u16, Refusal> {
    session.parameters.data_port = DataPort::None;
    let others = &session.visitor()?.account.data_from;
    let config = &session.config;
    let range = config.passive_ports;
    let opened = PassivePort::listen(
        session.connection.local,
        session.connection.peer,
        others,
        range,
        config.timeouts.data_connect,
    );
    match opened {
        Ok(passive) => {
            let port = passive.port();
            session.parameters.data_port = DataPort::Passive(passive);
            Ok(port)
        }
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::AddrInUse => " (setting: passive_ports)".into(),
                _ => remedy(&error).map_or_else(String::new, |what| format!(" (look at {what})")),
            };
            Err(
                Refusal::new(425, "No data port can be opened; try again later.").logged(format!(
                    "no port of {}-{} can be opened: {error}{remedy}",
                    range.low, range.high
                )),
            )
        }
    }
}

fn not_after_epsv_all(session: &Session) -> Result<(), Refusal> {
    if session.connection.epsv_all {
        return Err(Refusal::new(503, "You asked for EPSV only (EPSV ALL)."));
    }
    Ok(())
}

fn malformed(error: HostPortError) -> Refusal {
    match error {
        HostPortError::Syntax => Refusal::new(501, "Not an address in the form of the standard."),
        HostPortError::UnsupportedProtocol => {
            Refusal::new(522, "Network protocol not supported, use (1,2)")
        }
    }
}

//! Listening sockets for control connections.
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

use crate::os::socket::prepare_listener;

/// The port of a server started as root (RFC 959 §3.2).
pub const FTP_PORT: u16 = 21;
/// The port of a server started as anybody else.
pub const UNPRIVILEGED_PORT: u16 = 2121;

/// Connections the kernel completes while the acceptor is busy; capped by `net.core.somaxconn`.
const BACKLOG: i32 = 512;

/// An address that could not be listened on.
#[derive(Debug)]
pub struct ListenError {
    pub address: SocketAddr,
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        write!(f, "cannot listen on {address}: ")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "port {} is in use already; stop the other server or choose another port with --listen",
                    address.port()
                )
            }
            io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "ports below 1024 need root; choose a higher one with --listen, such as --listen :2121"
                )
            }
            io::ErrorKind::AddrNotAvailable => write!(f, "this host can have no such address"),
            _ => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// Opens all listeners. With none asked for: one for IPv6 and IPv4 together on `default_port`, or for IPv4 alone
/// where the host has no IPv6.
///
/// # Errors
/// The first address that cannot be had.
pub fn open(addresses: &[SocketAddr], default_port: u16) -> Result<Vec<TcpListener>, ListenError> {
    if addresses.is_empty() {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, default_port));
        return match open_one(everywhere, false) {
            Ok(listener) => Ok(vec![listener]),
            Err(error) if has_no_ipv6(&error) => {
                let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, default_port));
                open_one(everywhere, false)
                    .map(|listener| vec![listener])
                    .map_err(|source| ListenError {
                        address: everywhere,
                        source,
                    })
            }
            Err(source) => Err(ListenError {
                address: everywhere,
                source,
            }),
        };
    }
    let mut listeners = Vec::with_capacity(addresses.len());
    for &address in addresses {
        // `[::]` serves IPv4 too, unless the same port is asked for on an IPv4 address as well.
        let only_v6 = addresses
            .iter()
            .any(|other| other.is_ipv4() && other.port() == address.port() && other.port() != 0);
        listeners
            .push(open_one(address, only_v6).map_err(|source| ListenError { address, source })?);
    }
    Ok(listeners)
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

fn open_one(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &only_v6)?;
    }
    prepare_listener(socket.as_fd())?;
    let address = SockaddrStorage::from(address);
    match bind(socket.as_raw_fd(), &address) {
        Err(Errno::EADDRNOTAVAIL) => {
            // It may come any moment (DHCP, Wi-Fi): ip(7), IP_FREEBIND, which holds for IPv6 as well.
            setsockopt(&socket, sockopt::IpFreebind, &true)?;
            bind(socket.as_raw_fd(), &address)?;
            log::warn!(
                "{address}: this host has no such address yet; clients are served there when it comes"
            );
        }
        bound => bound?,
    }
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
}

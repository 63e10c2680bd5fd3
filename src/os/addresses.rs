//! The addresses of this host and of its peers.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The host's own addresses that a client on the LAN could use: of interfaces that are up, neither loopback nor
/// IPv6 link-local (those need a scope that no URL carries); IPv4 first.
pub fn lan_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let mut addresses: Vec<IpAddr> = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address
                .as_sockaddr_in()
                .map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| {
                address
                    .as_sockaddr_in6()
                    .map(|address| IpAddr::V6(address.ip()))
            })
        })
        .filter(|address| !address.is_loopback() && !is_link_local_v6(*address))
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The name that the host calls itself; `localhost` where it has none that could be written.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

fn is_link_local_v6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// An IPv4 address that reached an IPv6 socket, as the IPv4 address it is. IPv6 addresses keep their scope (RFC 4007 §11), without
/// which a link-local one leads nowhere.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The same host, and the same link, with another port.
pub fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Whether both are one host: a link-local address is another's on another link.
pub fn is_same_host(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address: SocketAddr| match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    (one.ip(), scope(one)) == (other.ip(), scope(other))
}

/// Whom an address stands for: over IPv6 whoever has one address has the other 2^64 of its link too (RFC 4291 §2.5.1). But
/// link-local addresses of all neighbours share their first bits: there each stands for itself.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_unicast_link_local() && !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

/// Whether the address belongs to a private network (RFC 1918, RFC 3927, loopback; shared space of RFC 6598): such a
/// peer is on this side of the router.
pub fn is_private(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || (a == 100 && (64..128).contains(&b))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn a_link_local_address_keeps_its_scope_and_is_known_by_it() {
        let on = |link| SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 21, 0, link));
        assert_eq!(canonical(on(3)), on(3));
        assert_eq!(with_port(on(3), 2121).port(), 2121);
        assert!(is_same_host(on(3), with_port(on(3), 5)) && !is_same_host(on(3), on(4)));
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:5".parse().unwrap());
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_stands_for() {
        let mapped: SocketAddr = "[::ffff:127.0.0.2]:21".parse().unwrap();
        assert_eq!(canonical(mapped), "127.0.0.2:21".parse().unwrap());
        let own: SocketAddr = "[::1]:21".parse().unwrap();
        assert_eq!(canonical(own), own);
    }

    #[test]
    fn an_ipv6_address_stands_for_its_link() {
        for (address, whom) in [
            ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
            ("fe80::3", "fe80::3"),
            ("::1", "::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(source(address).to_string(), whom);
        }
    }

    #[test]
    fn loopback_is_private() {
        assert!(is_private(Ipv4Addr::new(127, 0, 0, 2)));
    }
}

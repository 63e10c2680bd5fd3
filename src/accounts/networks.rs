//! Networks as people write them (RFC 4632 §3.1, RFC 4291 §2.3), and who may come from where.
//!
//! An IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2) is everywhere the IPv4 address that it stands for.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The bits of an IPv6 address before a mapped IPv4 address begins.
const MAPPED: u8 = 96;

/// All addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of so many bits that the address lies in; None when an address has fewer.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Self> {
        let (address, prefix) = match address.to_canonical() {
            // A mapped address was written with the prefix of an IPv6 address.
            v4 if v4.is_ipv4() && address.is_ipv6() => (v4, prefix.checked_sub(MAPPED)?),
            address => (address, prefix),
        };
        let address = masked(address, prefix)?;
        Some(Self { address, prefix })
    }

    /// How many bits its addresses share.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && masked(address, self.prefix) == Some(self.address)
    }
}

/// The address with all bits behind the prefix 0; None when it has fewer bits than that.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix);
    // A shift by all bits is none that the machine can do: it leaves nothing.
    Some(match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix)?);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask.unwrap_or(0)))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(prefix)?);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask.unwrap_or(0)))
        }
    })
}

impl FromStr for Network {
    type Err = String;

    /// `192.168.0.0/16`, `fd00::/8`, or one address.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected a network such as \"192.168.0.0/16\" or \"fd00::/8\", or an address, not {text:?}"
            )
        };
        let Some((address, prefix)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_| expected())?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            return Self::of(address, bits).ok_or_else(expected);
        };
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits);
        let network = prefix
            .and_then(|prefix| Self::of(address, prefix))
            .ok_or_else(expected)?;
        if network.address == address.to_canonical() {
            Ok(network)
        } else {
            // Either the address or the prefix is not what was meant.
            Err(format!(
                "{text} has bits behind its prefix: {network} or {}?",
                address.to_canonical()
            ))
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A list of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    all: bool,
    lan: bool,
    list: Vec<Network>,
}

impl Networks {
    /// Everybody.
    pub fn all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Whoever is on this side of the router.
    pub fn lan() -> Self {
        Self {
            lan: true,
            ..Self::default()
        }
    }

    /// `all`, `lan` and networks, in any number.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut networks = Self::default();
        for word in words {
            match word {
                "all" => networks.all = true,
                "lan" => networks.lan = true,
                word => networks.list.push(
                    word.parse()
                        .map_err(|what| format!("{what} (or \"lan\", or \"all\")"))?,
                ),
            }
        }
        Ok(networks)
    }

    /// Whether the peer, who came in at the `local` address, is among them.
    pub fn contain(&self, peer: IpAddr, local: IpAddr) -> bool {
        self.all
            || (self.lan && is_lan(peer, local))
            || self.list.iter().any(|network| network.contains(peer))
    }

    pub fn is_empty(&self) -> bool {
        !self.all && !self.lan && self.list.is_empty()
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.all, "all"), (self.lan, "lan")];
        let names = names.into_iter().filter(|(is, _)| *is);
        let words = names.map(|(_, name)| name.to_owned());
        let words: Vec<String> = words
            .chain(self.list.iter().map(Network::to_string))
            .collect();
        f.write_str(&words.join(", "))
    }
}

/// Private (RFC 1918, RFC 4193), loopback and link-local addresses; and over IPv6, where a device of the LAN comes from
/// its public address, those of the very link (RFC 4291 §2.5.1: 64 bits) that the server was reached on.
fn is_lan(peer: IpAddr, local: IpAddr) -> bool {
    let (peer, local) = (peer.to_canonical(), local.to_canonical());
    // The host itself, by whichever of its addresses.
    if peer == local {
        return true;
    }
    match peer {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unique_local()
                || (local.is_ipv6() && masked(peer, 64) == masked(local, 64))
        }
    }
}

/// Who may come and who may not; a network that is denied is so even where it is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    pub allow: Networks,
    pub deny: Networks,
}

impl Reach {
    /// No limits of its own.
    pub fn anywhere() -> Self {
        Self {
            allow: Networks::all(),
            deny: Networks::default(),
        }
    }

    /// The setting that keeps the peer out; None: it may come in.
    pub fn refusal(&self, peer: IpAddr, local: IpAddr) -> Option<&'static str> {
        if self.deny.contain(peer, local) {
            Some("deny")
        } else if self.allow.contain(peer, local) {
            None
        } else {
            Some("allow")
        }
    }
}

/// The server's own, unless it is told otherwise: the LAN. A server of files is not for the internet unasked.
impl Default for Reach {
    fn default() -> Self {
        Self {
            allow: Networks::lan(),
            deny: Networks::default(),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.allow)?;
        if !self.deny.is_empty() {
            write!(f, ", but not {}", self.deny)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_what_shares_its_prefix_and_mapped_addresses_are_ipv4() {
        for (network, inside, outside) in [
            ("192.168.0.0/16", "192.168.255.1", "192.169.0.1"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.3"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("fe80::/10", "febf::1", "fec0::1"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::2"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(ip(inside)), "{network} {inside}");
            assert!(!network.contains(ip(outside)), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "nas.local",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "::ffff:10.0.0.0/64",
            "10.0.0.0/-1",
            "10.0.0.0/256",
            " 10.0.0.1",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        let error = "192.168.1.5/24".parse::<Network>().unwrap_err();
        assert!(error.contains("192.168.1.0/24"), "{error}");
    }

    #[test]
    fn the_lan_is_private_and_link_local_and_the_link_itself() {
        let local = ip("2001:db8:1:2::10");
        for address in [
            "127.0.0.1",
            "192.168.3.4",
            "10.9.9.9",
            "172.16.0.1",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "fd12::1",
            "2001:db8:1:2:abcd::1",
            "::ffff:192.168.0.1",
        ] {
            assert!(Networks::lan().contain(ip(address), local), "{address}");
        }
        for address in [
            "8.8.8.8",
            "172.32.0.1",
            "100.64.0.1",
            "2001:db8:1:3::10",
            "::ffff:8.8.8.8",
            "0.0.0.0",
        ] {
            assert!(!Networks::lan().contain(ip(address), local), "{address}");
        }
    }

    #[test]
    fn what_is_denied_is_so_even_where_it_is_allowed() {
        let reach = Reach {
            allow: Networks::parse(["lan", "203.0.113.0/24"]).unwrap(),
            deny: Networks::parse(["192.168.1.66"]).unwrap(),
        };
        let local = ip("192.168.1.1");
        for (peer, refusal) in [
            ("192.168.1.2", None),
            ("192.168.1.66", Some("deny")),
            ("203.0.113.5", None),
            ("198.51.100.1", Some("allow")),
        ] {
            assert_eq!(reach.refusal(ip(peer), local), refusal, "{peer}");
        }
        assert_eq!(
            reach.to_string(),
            "lan, 203.0.113.0/24, but not 192.168.1.66/32"
        );
    }
}

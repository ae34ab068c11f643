//! The PROXY protocol's header, version 2, by which a CN learns the client's address.
//!
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, section 2.2.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header of a TCP connection from `source` to `destination`. Where the families differ, both go as IPv6.
pub(crate) fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    // Version 2, PROXY.
    out.push(0x21);
    let (source_ip, destination_ip) = (source.ip().to_canonical(), destination.ip().to_canonical());
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (source_ip, destination_ip) {
        out.extend_from_slice(&[0x11, 0, 12]);
        out.extend_from_slice(&from.octets());
        out.extend_from_slice(&to.octets());
    } else {
        out.extend_from_slice(&[0x21, 0, 36]);
        for ip in [source_ip, destination_ip] {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_what_the_header_says() {
        let v4: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let v6: SocketAddr = "[::1]:2".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:10.0.0.2]:3".parse().unwrap();
        for (source, destination, family, len) in
            [(v4, v4, 0x11, 12), (v6, v6, 0x21, 36), (v4, v6, 0x21, 36), (v4, mapped, 0x11, 12)]
        {
            let header = v2(source, destination);
            assert_eq!((header[13], usize::from(header[15])), (family, len));
            assert_eq!(header.len(), 16 + len);
        }
    }
}

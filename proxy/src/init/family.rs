//! The two families of addresses, and whether this namespace has both.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use rustix::io::Errno;

use super::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Why there is nothing of this family to intercept, if there is not. Loopback is asked rather
    /// than /proc, which may not be there: where a family is on, it has an address, and that is where
    /// outbound connections are redirected to.
    pub(super) fn off(self) -> Result<Option<&'static str>, Error> {
        let bound = UdpSocket::bind((self.loopback(), 0));
        let errno = match &bound {
            Ok(_) => return Ok(None),
            Err(error) => Errno::from_io_error(error),
        };
        match (self, errno) {
            (Self::V6, Some(Errno::AFNOSUPPORT)) => Ok(Some("the kernel has none")),
            (Self::V6, Some(Errno::ADDRNOTAVAIL)) => Ok(Some("disabled, loopback has no ::1")),
            (Self::V4, Some(Errno::ADDRNOTAVAIL)) => Err(Error::LoopbackDown),
            _ => Ok(None),
        }
    }

    pub(super) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    pub(super) fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    pub(super) fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

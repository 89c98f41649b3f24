//! The operating system's verbs: the only code that speaks rtnetlink, runs nft and iptables, or writes /proc/sys.

pub mod iface;
pub mod netlink;

pub mod firewall;
pub mod sysctl;

pub mod inspect;
pub mod rights;

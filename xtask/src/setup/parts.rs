//! What building, testing and running need from the machine, and which Debian package brings it.

use std::{fs, path::Path};

use crate::shell::which;

/// Something that must be on the machine.
#[derive(Debug)]
pub(crate) struct Part {
    /// What is looked for.
    pub(crate) what: What,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// What for.
    pub(crate) why: &'static str,
}

/// What is looked for.
#[derive(Debug)]
pub(crate) enum What {
    /// A program.
    Tool(&'static str),
    /// A file below one of the include folders.
    Include(&'static str),
    /// A busybox that runs without any library.
    StaticBusybox,
}

const fn tool(name: &'static str, package: &'static str, why: &'static str) -> Part {
    Part { what: What::Tool(name), package, why }
}

/// Every part, but for the BPF toolchain, which has two ways (see `toolchain`).
pub(crate) const PARTS: &[Part] = &[
    tool("cc", "gcc", "links Rust programs"),
    tool("protoc", "protobuf-compiler", "compiles etcd's interface"),
    Part {
        what: What::Include("google/protobuf/descriptor.proto"),
        package: "libprotobuf-dev",
        why: "etcd's interface includes it",
    },
    tool("etcd", "etcd-server", "the store, in run, demo and tests"),
    tool("etcdctl", "etcd-client", "writes configs and leases"),
    tool("dockerd", "docker.io", "tests with real containers"),
    tool("nft", "nftables", "masquerading"),
    tool("iptables", "iptables", "masquerading, and Docker"),
    tool("ip", "iproute2", "namespaces, links and routes"),
    tool("ping", "iputils-ping", "reachability in demo and tests"),
    tool("iperf3", "iperf3", "throughput in demo and benchmark"),
    tool("ethtool", "ethtool", "offload settings in tests"),
    tool("tcpdump", "tcpdump", "looking at packets"),
    tool("bpftool", "bpftool", "looking at programs and maps"),
    tool("conntrack", "conntrack", "looking at tracked connections"),
    tool("openssl", "openssl", "certificates of tests with TLS"),
    tool("capsh", "libcap2-bin", "tests without rights"),
    tool("setpriv", "util-linux", "tests without rights"),
    tool("nsenter", "util-linux", "entering namespaces"),
    tool("systemd-nspawn", "systemd-container", "tests of the unit under systemd"),
    Part { what: What::StaticBusybox, package: "busybox-static", why: "the containers' image" },
];

impl Part {
    /// What to call it in a list.
    pub(crate) fn name(&self) -> &'static str {
        match self.what {
            What::Tool(name) | What::Include(name) => name,
            What::StaticBusybox => "busybox (static)",
        }
    }

    /// Whether the machine has it.
    pub(crate) fn is_present(&self) -> bool {
        match self.what {
            What::Tool(name) => which(name).is_some(),
            What::Include(file) => {
                ["/usr/include", "/usr/local/include"].iter().any(|dir| Path::new(dir).join(file).exists())
                    || std::env::var_os("PROTOC_INCLUDE").is_some_and(|dir| Path::new(&dir).join(file).exists())
            }
            What::StaticBusybox => {
                which("busybox").and_then(|path| fs::read(path).ok()).is_some_and(|elf| !has_interpreter(&elf))
            }
        }
    }
}

/// Whether a 64-bit little-endian ELF file asks for a loader (`PT_INTERP`, 3), and so for libraries.
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, width: usize| {
        let bytes = elf.get(at..at + width).unwrap_or_default();
        bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    // e_phoff, e_phentsize and e_phnum of the ELF header; p_type is the first field of a program header.
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|index| number(offset + index * size, 4) == 3)
}

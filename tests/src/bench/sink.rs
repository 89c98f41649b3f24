//! Where packets are counted: a BPF program at the last interface, which drops what it counts. And where they turn back in
//! the limit of what goes through a node.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::PerCpuArray,
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions},
};
use flannel_agent::fastpath::bench_object::BENCH_OBJECT;
use flannel_common::bench::{Counts, name};

/// Which program counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TC ingress, before any other program there.
    Tc,
    /// Native XDP.
    Xdp,
}

/// A sink at an interface; gone when dropped.
pub struct Sink {
    bpf: Ebpf,
}

impl Sink {
    /// Attaches a sink to the interface `ifname`. Call it inside the interface's namespace.
    pub fn attach(hook: Hook, ifname: &str) -> Result<Self> {
        let mut bpf = Ebpf::load(BENCH_OBJECT).context("load the sink (needs root)")?;
        match hook {
            Hook::Tc => attach_tc(&mut bpf, ifname),
            Hook::Xdp => attach_xdp(&mut bpf, name::SINK_XDP, ifname),
        }
        .with_context(|| format!("attach the sink to {ifname}"))?;
        Ok(Self { bpf })
    }

    /// Attaches what sends packets back to the interface `ifname`. Call it inside the interface's namespace.
    pub fn bounce(ifname: &str) -> Result<Self> {
        let mut bpf = Ebpf::load(BENCH_OBJECT).context("load the program that sends packets back (needs root)")?;
        attach_xdp(&mut bpf, name::BOUNCE, ifname).with_context(|| format!("attach it to {ifname}"))?;
        Ok(Self { bpf })
    }

    /// What it has counted so far.
    pub fn counts(&self) -> Result<Counts> {
        let map = self.bpf.map(name::COUNTS).context("the sink has no map COUNTS")?;
        let map: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(map)?;
        let per_cpu = map.get(&0, 0)?;
        Ok(per_cpu.iter().fold(Counts::default(), |sum, [packets, bytes]| Counts {
            packets: sum.packets + packets,
            bytes: sum.bytes + bytes,
        }))
    }
}

fn attach_tc(bpf: &mut Ebpf, ifname: &str) -> Result<()> {
    let program = bpf.program_mut(name::SINK_TC).context("the object has no TC sink")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    program.attach_with_options(ifname, TcAttachType::Ingress, TcAttachOptions::TcxOrder(LinkOrder::first()))?;
    Ok(())
}

fn attach_xdp(bpf: &mut Ebpf, name: &str, ifname: &str) -> Result<()> {
    let program = bpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    program.attach(ifname, XdpMode::Driver)?;
    Ok(())
}

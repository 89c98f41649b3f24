//! Which workloads a run has: a quick one of under three minutes, and a full one.

use std::time::Duration;

use super::workload::{
    Case, agent,
    pps::{Direction, Spec},
    program,
    roundtrip::{self, Exchange},
    socket, stream,
};

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Under three minutes on two cores.
    Quick,
    /// Everything.
    Full,
}

impl Size {
    /// How long a sample takes.
    pub const fn sample_time(self) -> Duration {
        match self {
            Self::Quick => Duration::from_millis(100),
            Self::Full => Duration::from_millis(500),
        }
    }

    /// All cases, in the order of the tables.
    pub fn cases(self) -> Vec<Case> {
        let mut cases: Vec<Case> = self.pps_specs().into_iter().map(Spec::case).collect();
        cases.extend(self.socket_specs().into_iter().map(socket::Spec::case));
        cases.extend(self.stream_specs().into_iter().map(stream::Spec::case));
        cases.extend(self.roundtrip_specs().into_iter().map(roundtrip::Spec::case));
        cases.extend(self.program_specs().into_iter().map(program::Spec::case));
        cases.extend(self.agent_specs().into_iter().map(agent::Spec::case));
        cases
    }

    /// What can be measured between two real nodes.
    pub fn node_cases(self) -> Vec<Case> {
        let mut cases: Vec<Case> = self.socket_specs().into_iter().map(socket::Spec::case).collect();
        cases.retain(|case| case.workload == "udp-socket");
        cases.extend(self.stream_specs().into_iter().filter(|spec| !spec.small_frames).map(stream::Spec::case));
        cases.extend(self.roundtrip_specs().into_iter().filter(|spec| !spec.one_core).map(roundtrip::Spec::case));
        cases
    }

    /// The headline first, then growing maps.
    fn program_specs(self) -> Vec<program::Spec> {
        let spec = |peers, flows| program::Spec { peers, flows };
        match self {
            Self::Quick => vec![spec(1, 1), spec(1024, 1)],
            Self::Full => vec![
                spec(1, 1),
                spec(64, 1),
                spec(1024, 1),
                spec(16_384, 1),
                spec(65_533, 1),
                spec(1, 256),
                spec(1, 4096),
                spec(1, 65_536),
            ],
        }
    }

    fn agent_specs(self) -> Vec<agent::Spec> {
        use agent::What;
        let spec = |what, leases| agent::Spec { what, leases };
        let few = vec![spec(What::Convergence, 64), spec(What::Repair, 64), spec(What::RestartGap, 64)];
        match self {
            Self::Quick => few,
            Self::Full => few
                .into_iter()
                .chain([spec(What::StartToReady, 64), spec(What::Memory, 64)])
                .chain([1000, 5000].into_iter().flat_map(|leases| {
                    [What::Convergence, What::Repair, What::StartToReady, What::Memory].map(|what| spec(what, leases))
                }))
                .collect(),
        }
    }

    fn socket_specs(self) -> Vec<socket::Spec> {
        let spec = |frame, rate| socket::Spec { frame, rate };
        match self {
            Self::Quick => vec![spec(60, None)],
            Self::Full => vec![spec(60, None), spec(512, None), spec(60, Some(30_000))],
        }
    }

    fn stream_specs(self) -> Vec<stream::Spec> {
        let spec = |streams, small_frames, seconds| stream::Spec { streams, small_frames, seconds };
        match self {
            Self::Quick => vec![spec(1, false, 1)],
            Self::Full => [(1, false), (4, false), (8, false), (1, true), (8, true)]
                .map(|(streams, small_frames)| spec(streams, small_frames, 2))
                .to_vec(),
        }
    }

    fn roundtrip_specs(self) -> Vec<roundtrip::Spec> {
        let exchanges = [Exchange::Tcp, Exchange::Udp, Exchange::Connection];
        let cores: &[bool] = if self == Self::Quick { &[false] } else { &[false, true] };
        let specs = exchanges.iter().flat_map(|exchange| cores.iter().map(|one_core| (*exchange, *one_core)));
        specs.map(|(exchange, one_core)| roundtrip::Spec { exchange, one_core }).collect()
    }

    fn pps_specs(self) -> Vec<Spec> {
        let directions = [Direction::Out, Direction::In, Direction::Transit, Direction::EndToEnd];
        let mut specs = Vec::new();
        for direction in directions {
            for (frame, flows, dests) in self.packets() {
                let dests = if direction == Direction::EndToEnd { 1 } else { dests };
                let spec = Spec { direction, frame, flows, dests };
                if !specs.contains(&spec) {
                    specs.push(spec);
                }
            }
        }
        specs
    }

    /// Bytes, flows and peers; the first of them is the headline.
    fn packets(self) -> Vec<(u16, u32, u32)> {
        match self {
            Self::Quick => vec![(60, 256, 1)],
            Self::Full => {
                vec![(60, 256, 1), (60, 256, 64), (60, 1, 1), (60, 65_536, 64), (512, 256, 1)]
            }
        }
    }
}

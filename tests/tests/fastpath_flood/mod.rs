//! A constant stream of small packets, counted where they arrive.
#![allow(dead_code, reason = "each suite uses its part")]

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use flannel_tests::{netns::Netns, topology::Container};
use nix::sys::socket::{setsockopt, sockopt};

/// Sent in one go, once a millisecond: 50,000 packets/s.
pub(crate) const BURST: u32 = 50;
const TICK: Duration = Duration::from_millis(1);
/// Ports, so that there is more than one flow.
const FLOWS: u16 = 16;

/// Sends bursts of `burst` packets from one container to another for as long as `goes_on` says, and gives what was sent
/// and what arrived. `meanwhile` runs beside it until the flag that it is given is set.
pub(crate) fn flood<T: Send>(
    [from, to]: [&Container; 2],
    burst: u32,
    goes_on: impl Fn(u32) -> bool + Send + Sync,
    meanwhile: impl FnOnce(&AtomicBool) -> T + Send,
) -> (u32, u32, T) {
    let done = AtomicBool::new(false);
    // Neighbours are resolved before the first packet counts.
    from.ns.run(&format!("ping -c 1 -W 5 {}", to.address)).unwrap();
    let sockets = bind(&to.ns);
    thread::scope(|scope| {
        let counting = scope.spawn(|| receive(&sockets, &done));
        let working = scope.spawn(|| meanwhile(&done));
        let sent = send(&from.ns, to.address, burst, goes_on);
        thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::Relaxed);
        let outcome = working.join().unwrap();
        (sent, counting.join().unwrap(), outcome)
    })
}

fn port(flow: u16) -> u16 {
    7000 + flow
}

fn bind(ns: &Netns) -> Vec<UdpSocket> {
    ns.enter(|| {
        let socket = |flow| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port(flow))).unwrap();
            setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        (0..FLOWS).map(socket).collect()
    })
    .unwrap()
}

fn send(ns: &Netns, to: Ipv4Addr, burst: u32, goes_on: impl Fn(u32) -> bool + Send + Sync) -> u32 {
    ns.enter(|| {
        let sockets: Vec<UdpSocket> = (0..FLOWS)
            .map(|flow| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect(SocketAddr::from((to, port(flow)))).unwrap();
                socket
            })
            .collect();
        let (mut next, mut sent) = (Instant::now(), 0);
        while goes_on(sent) {
            for index in 0..burst {
                let flow = (sent / burst + index) as usize % sockets.len();
                sockets[flow].send(&[0; 18]).unwrap();
            }
            sent += burst;
            next += TICK;
            // Late ticks are not made up for: a burst larger than the others would test queues, not us.
            match next.checked_duration_since(Instant::now()) {
                Some(pause) => thread::sleep(pause),
                None => next = Instant::now(),
            }
        }
        sent
    })
    .unwrap()
}

fn receive(sockets: &[UdpSocket], done: &AtomicBool) -> u32 {
    let (mut received, mut buffer) = (0, [0; 64]);
    loop {
        let finished = done.load(Ordering::Relaxed);
        let before = received;
        for socket in sockets {
            while socket.recv(&mut buffer).is_ok() {
                received += 1;
            }
        }
        if received == before {
            if finished {
                return received;
            }
            thread::sleep(TICK);
        }
    }
}

//! The iptables rules that hosts have: Docker's, and flannel's with `-ip-masq`. Written down for the arms without an agent.

use ipnet::Ipv4Net;

/// What dockerd 20.10 sets for docker0 when it is started with flannel's options (`--ip-masq=false`, as flannel masquerades).
pub(super) fn docker() -> String {
    "*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
COMMIT
"
    .to_owned()
}

/// What flannel sets with `-ip-masq` on the host of `subnet`; `exempt` is never masqueraded.
pub(super) fn flannel(network: Ipv4Net, subnet: Ipv4Net, exempt: &str) -> String {
    format!(
        "*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -j FLANNEL-FWD
-A FLANNEL-FWD -s {network} -j ACCEPT
-A FLANNEL-FWD -d {network} -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s {exempt} -j RETURN
-A FLANNEL-POSTRTG -d {exempt} -j RETURN
-A FLANNEL-POSTRTG -s {subnet} -d {network} -j RETURN
-A FLANNEL-POSTRTG -s {network} -d {subnet} -j RETURN
-A FLANNEL-POSTRTG ! -s {network} -d {subnet} -j RETURN
-A FLANNEL-POSTRTG -s {network} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {network} -d {network} -j MASQUERADE --random-fully
COMMIT
"
    )
}

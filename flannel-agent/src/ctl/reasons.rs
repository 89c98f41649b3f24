//! What became of packets, in an operator's words.

/// What the label of a reason means; empty for one of a newer flanneld. Short enough for a table of 80 columns.
pub(super) fn meaning(label: &str) -> &'static str {
    match label {
        "fast_out" => "fast, from a container to another host",
        "fast_in" => "fast, from another host into a container",
        "fast_transit" => "fast, in and out by the uplink",
        "not_ours" => "neither end is a container of the network",
        "not_ipv4" => "ARP, IPv6 and the like",
        "malformed" => "shorter than its headers say",
        "options" => "slow: has IP options",
        "fragment" => "slow: a fragment",
        "ttl_expired" => "slow: its time to live ends here",
        "protocol" => "slow: neither TCP nor UDP",
        "tcp_control" => "slow: opens or closes a connection",
        "no_peer" => "slow: the other end is in no peer's subnet",
        "source_mismatch" => "slow: its source does not belong there",
        "flow_new" => "slow: its flow is not verified yet",
        "flow_stale" => "slow: its flow verifies again",
        "flow_epoch" => "slow: leases, links or settings changed",
        "flow_moved" => "slow: came otherwise than its flow does",
        "too_big" => "slow: larger than any of its flow before",
        "verified" => "left unchanged: made its flow fast",
        "rewritten" => "left changed by a rule: its flow stays slow",
        "not_seen" => "left, but came otherwise: NAT, or this host",
        "already_fast" => "the fast ones, seen leaving: not more packets",
        "no_route" => "slow: the kernel knows no way for it",
        "flow_table_full" => "slow: no room for its flow (-flows)",
        "disabled" => "slow: the fast path is switched off",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::reason::Reason;

    use super::meaning;

    #[test]
    fn every_reason_has_a_meaning_that_fits() {
        for reason in Reason::ALL {
            let text = meaning(reason.label());
            assert!(!text.is_empty() && text.len() <= 46, "{}: {text:?}", reason.label());
        }
    }
}

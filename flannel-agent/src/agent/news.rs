//! What the store and the keeper of our lease have to say, and what follows from it.

use std::sync::Arc;

use super::{
    Error,
    node::subnets,
    publish,
    rules::{self, RulesTask},
    start, systemd,
    turn::Agent,
};
use crate::{
    config::{Effect, NetworkConfig, diff},
    events,
    keeper::KeeperEvent,
    kernel::firewall::Firewall,
    lease::{Lease, Subnet},
    state::Warning,
    subnet_file::{self, Previous},
};

/// Code of the warning about a change of the configuration that is not applied.
const CONFIG: &str = "config-changed";
/// Code of the warning about a subnet file that cannot be written.
const SUBNET_FILE: &str = "subnet-file";

impl Agent<'_> {
    pub(super) async fn keeper_says(&mut self, event: KeeperEvent) -> Result<(), Error> {
        match event {
            KeeperEvent::Renewed(lease) => {
                let until = self.keeper.held().expires_at.map_or(0, publish::seconds);
                let text = format!("Lease renewed, new expiration: {until} ({})", lease.subnet);
                self.events.record("lease-renewed", text);
            }
            KeeperEvent::Reacquired(lease) => {
                self.events.record("lease-reacquired", format!("lease of {} taken again", lease.subnet));
            }
            KeeperEvent::Lost { why } => {
                let subnet = self.node.own.to_string();
                self.events.fault("lease-lost", format!("the lease of {subnet} is lost: {why}"));
                if self.flags.lease.exit_on_loss {
                    return Err(Error::LeaseLost { subnet, why });
                }
            }
            KeeperEvent::Replaced { old, new } => self.moved(old.subnet, new).await?,
        }
        self.publish();
        Ok(())
    }

    /// Our subnet is another one: everything that depends on it follows.
    async fn moved(&mut self, old: Subnet, new: Lease) -> Result<(), Error> {
        self.events.fault(
            "lease-replaced",
            format!(
                "this node now leases {} instead of {old}: restart Docker, so that its containers move there",
                new.subnet
            ),
        );
        if self.node.blackhole {
            for subnet in subnets(old) {
                if let Err(error) = self.node.netlink.remove_blackhole(subnet).await {
                    self.events.fault("blackhole", error.to_string());
                }
            }
        }
        self.node.own = new.subnet;
        self.node.backend.lease_acquired(new.subnet, &self.node.netlink).await?;
        let before = Previous {
            network: Some(self.node.config.v4.network),
            subnet: Some(old.v4),
            v6_network: self.node.config.v6.map(|v6| v6.network),
            v6_subnet: old.v6,
        };
        self.start_rules(&before).await;
        self.write_subnet_file();
        self.hurry();
        Ok(())
    }

    pub(super) fn connected(&mut self, revision: i64) {
        if std::mem::take(&mut self.store_down) {
            self.events.record("store-connected", format!("the store answers again (revision {revision})"));
        }
        self.publisher.send_modify(|state| {
            let store = &mut Arc::make_mut(state).store;
            (store.connected, store.error, store.revision, store.heard_at) = (true, None, revision, events::now());
        });
    }

    pub(super) fn disconnected(&mut self, error: &str) {
        if !std::mem::replace(&mut self.store_down, true) {
            self.events.fault("store-disconnected", format!("{error}; routes stay as they are"));
        }
        self.publisher.send_modify(|state| {
            let store = &mut Arc::make_mut(state).store;
            (store.connected, store.error) = (false, Some(error.to_owned()));
        });
    }

    /// The configuration key changed: says what that means, and applies what can be applied to a running node.
    pub(super) async fn config_says(&mut self, text: Option<&str>) {
        self.standing.retain(|warning| warning.code != CONFIG);
        let key = self.store.config_key().to_owned();
        let Some(text) = text else {
            return self.warn_config(
                format!("the configuration at key {key} was deleted"),
                "write it again: flannelctl config set",
            );
        };
        let new = match NetworkConfig::parse(text) {
            Ok(new) => new,
            Err(error) => {
                let text = format!("the configuration at key {key} can no longer be used: {error}");
                return self
                    .warn_config(text, "correct it: flannelctl config set; this node carries on with the old one");
            }
        };
        for difference in diff(&self.node.config, &new) {
            match difference.effect {
                Effect::Restart => {
                    self.warn_config(difference.to_string(), "systemctl restart flanneld, on every node");
                }
                Effect::Live | Effect::NextLease => self.events.record("config", difference.to_string()),
            }
        }
        self.adopt(&new).await;
    }

    /// Takes over what may change while the node runs.
    async fn adopt(&mut self, new: &NetworkConfig) {
        let old = self.node.config.clone();
        let differences = diff(&old, new);
        let may = |part: &str| differences.iter().all(|d| !d.key.starts_with(part) || d.effect != Effect::Restart);
        let mut config = old.clone();
        if may("Network") && may("SubnetLen") {
            config.v4 = new.v4;
        }
        if may("IPv6") && may("EnableIPv6") {
            config.v6 = new.v6;
        }
        if may("Backend") {
            config.backend = new.backend.clone();
        }
        if config == old {
            return;
        }
        self.keeper.set_range(config.range());
        if let Err(error) = self.node.rebuild(config, self.node.uplink.clone()).await {
            self.warn_config(format!("the new configuration does not work here: {error}"), "flannelctl config set");
        }
        self.hurry();
    }

    fn warn_config(&mut self, text: String, remedy: &str) {
        self.events.fault("config", text.clone());
        self.standing.push(Warning { code: CONFIG.to_owned(), text, remedy: remedy.to_owned() });
    }

    /// Writes the subnet file; a node that cannot is not ready, and tries again with every audit.
    pub(super) fn write_subnet_file(&mut self) -> bool {
        let file = start::subnet_file(self.flags, &self.node.config, self.node.own, self.node.backend.mtu());
        let known = self.standing.iter().any(|warning| warning.code == SUBNET_FILE);
        match subnet_file::write(&self.flags.subnet_file, &file) {
            Ok(()) => {
                self.standing.retain(|warning| warning.code != SUBNET_FILE);
                let path = self.flags.subnet_file.display();
                self.events
                    .record("subnet-file", format!("Wrote subnet file to {path}: {}, MTU {}", self.node.own, file.mtu));
                true
            }
            Err(error) => {
                if !known {
                    self.events.fault("subnet-file", error.to_string());
                    let warning = Warning {
                        code: SUBNET_FILE.to_owned(),
                        text: error.to_string(),
                        remedy: "mend that; it is written again within 10 s".to_owned(),
                    };
                    self.standing.push(warning);
                }
                false
            }
        }
    }

    /// Puts the rules for our subnet in place, in place of those for an earlier one.
    pub(super) async fn start_rules(&mut self, previous: &Previous) {
        let mode = start::firewall_mode(&self.node.config);
        self.rules = None;
        let rules = start::rules(self.flags, &self.node.config, self.node.own);
        let wanted = rules.are_wanted();
        let firewall = Firewall::new(mode, rules, previous, self.flags.firewall.resync);
        if wanted {
            self.rules = Some(RulesTask::start(firewall, self.events.clone()).await);
        } else {
            rules::clear(firewall, &self.events).await;
        }
    }

    /// Says once that the node forwards: subnet.env is written, and the first pass is done.
    pub(super) fn say_ready(&mut self) {
        if self.written {
            if !self.ready {
                self.ready = true;
                self.events
                    .record("ready", format!("flannel is ready: {} on {}", self.node.own, self.node.uplink.name));
                systemd::ready(&format!("leases {} on {}", self.node.own, self.node.uplink.name));
            }
        } else {
            self.written = self.write_subnet_file();
        }
    }
}

//! A real dockerd in a namespace, with an image made of the machine's static busybox.

use std::{fs, net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    netns::Netns,
    process::{Process, output},
    scratch::Scratch,
    wait::wait_until,
};

/// How long dockerd may take to answer: it starts containerd first.
const START: Duration = Duration::from_mins(1);
/// Name of the image that every [`Docker`] has: a busybox whose `sh`, `ping`, `nc`, `wget`, `httpd` … are links.
pub const IMAGE: &str = "busybox";

/// A running dockerd with its own data folder; it and its containers are gone when dropped.
#[derive(Debug)]
pub struct Docker {
    process: Process,
    dir: Scratch,
}

impl Docker {
    /// Starts dockerd in `ns` with extra flags such as `--bip=…` and `--mtu=…`, and imports [`IMAGE`].
    pub fn start(ns: &Netns, flags: &[&str]) -> Result<Self> {
        let dir = Scratch::new("docker")?;
        let mut command = ns.command("dockerd");
        command.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
        command.arg("--pidfile").arg(dir.join("pid"));
        command.arg("--host").arg(format!("unix://{}", dir.join("sock").display()));
        // A file that is not there: the machine's own /etc/docker/daemon.json is none of our business.
        fs::write(dir.join("daemon.json"), "{}")?;
        command.arg("--config-file").arg(dir.join("daemon.json")).args(["--storage-driver", "vfs"]).args(flags);
        let process = Process::spawn(command, &dir.join("log"))?;
        let docker = Self { process, dir };
        wait_until("dockerd to answer", START, || docker.cli(&["info"]).is_ok()).with_context(|| docker.log())?;
        docker.import_busybox()?;
        Ok(docker)
    }

    /// Runs the docker client against this dockerd.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.dir.join("sock").display())).args(args);
        output(command)
    }

    /// Starts a detached container named `name` that runs `command` of [`IMAGE`], and gives its address.
    pub fn run(&self, name: &str, flags: &[&str], command: &[&str]) -> Result<Ipv4Addr> {
        let fixed = ["run", "--detach", "--name", name];
        self.cli(&[&fixed[..], flags, &[IMAGE], command].concat())?;
        let format = "--format={{.NetworkSettings.IPAddress}}";
        let address = self.cli(&["inspect", format, name])?;
        address.trim().parse().with_context(|| format!("{name} has no address: {address:?}"))
    }

    /// Runs a command in a running container.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<String> {
        self.cli(&[&["exec", name], command].concat())
    }

    /// Everything dockerd has said.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn import_busybox(&self) -> Result<()> {
        let (root, tar) = (self.dir.join("image"), self.dir.join("image.tar"));
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/usr/bin/busybox", root.join("bin/busybox")).context("copy busybox (package busybox-static)")?;
        for applet in output_of("busybox", &["--list"])?.lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        output_of("tar", &["-C", &root.to_string_lossy(), "-cf", &tar.to_string_lossy(), "."])?;
        self.cli(&["import", &tar.to_string_lossy(), IMAGE]).map(drop)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let containers = self.cli(&["ps", "--quiet"]).unwrap_or_default();
        for id in containers.lines() {
            self.cli(&["kill", id]).ok();
        }
        self.process.terminate(Duration::from_secs(10)).ok();
    }
}

fn output_of(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    output(command)
}

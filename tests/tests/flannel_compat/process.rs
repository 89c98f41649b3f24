//! The program itself: what it prints where, and how it ends, before it touches anything.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
};

use flannel_tests::flanneld::binary;

fn run(program: &Path, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(program).args(args).env_clear().envs(env.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

#[test]
fn exit_codes_and_streams() {
    let flanneld = binary("flanneld").unwrap();
    let env_masq = [("FLANNELD_IP_MASQ", "maybe")];
    for (args, env, code, out, err) in [
        (vec!["-h"], &[][..], 0, "Usage: flanneld", ""),
        (vec!["--help"], &[], 0, "-etcd-endpoints", ""),
        (vec!["-version"], &[], 0, "", "0."),
        (vec!["--version"], &env_masq, 0, "", "0."),
        (vec!["-nonsense"], &[], 2, "", "-nonsense"),
        (vec!["-iptables-resync=often"], &[], 2, "", "-iptables-resync"),
        (vec!["-healthz-port"], &[], 2, "", "-healthz-port"),
        (vec!["-kube-subnet-mgr"], &[], 2, "", "Kubernetes mode is not supported"),
        (vec![], &env_masq, 2, "", "FLANNELD_IP_MASQ"),
    ] {
        let (status, stdout, stderr) = run(&flanneld, &args, env);
        assert_eq!(status, Some(code), "{args:?}: {stdout}{stderr}");
        assert!(stdout.contains(out) && stderr.contains(err), "{args:?}: {stdout}{stderr}");
        assert!(code == 0 || (stdout.is_empty() && stderr.lines().count() == 1), "{args:?}: {stdout}{stderr}");
    }
}

#[test]
fn docker_options_under_both_names() {
    let flanneld = binary("flanneld").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (subnet, output) = (dir.path().join("subnet.env"), dir.path().join("docker"));
    fs::write(&subnet, "FLANNEL_SUBNET=172.16.36.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n").unwrap();
    let script = dir.path().join("mk-docker-opts.sh");
    symlink(&flanneld, &script).unwrap();
    let flags = ["-c", "-k", "DOCKER_NETWORK_OPTIONS", "-f", subnet.to_str().unwrap(), "-d", output.to_str().unwrap()];
    let verb: Vec<&str> = ["mk-docker-opts"].into_iter().chain(flags).collect();
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../flannel-agent/dist/mk-docker-opts.sh");
    let env = [("FLANNELD", flanneld.to_str().unwrap())];
    for (program, args) in [(&script, &flags[..]), (&flanneld, &verb), (&dist, &flags)] {
        fs::remove_file(&output).ok();
        let (status, stdout, stderr) = run(program, args, &env);
        assert_eq!((status, stdout.as_str(), stderr.as_str()), (Some(0), "", ""), "{}", program.display());
        let text = fs::read_to_string(&output).unwrap();
        assert_eq!(text, "DOCKER_NETWORK_OPTIONS=\" --bip=172.16.36.1/24 --ip-masq=false --mtu=1500\"\n");
        let (status, _, stderr) = run(program, &[&args[..args.len() - flags.len()], &["-h"]].concat(), &env);
        assert!(status == Some(1) && stderr.contains("Usage: mk-docker-opts.sh"), "{stderr}");
    }
}

//! Every process of a mesh with its arguments and environment. Nothing is started here.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use outrider_api::kinds::{Interception, Mode};
use outrider_api::sidecar;

use super::child::Spec;
use super::event::ChildName;
use super::plan::Plan;
use super::workload::{Place, WorkloadPlan};

impl Plan {
    /// The control plane's process.
    pub(super) fn control_plane_spec(&self, exe: &Path) -> Spec {
        let args = vec![
            "control-plane".into(),
            "--config-dir".into(),
            self.directory.clone().into(),
            "--state-dir".into(),
            self.state_dir.clone().into(),
            "--listen".into(),
            self.control_plane.to_string().into(),
            "--admin".into(),
            self.control_plane_admin.to_string().into(),
        ];
        let name = ChildName::control_plane();
        supervised(name, exe, &[], exe.into(), args, Vec::new())
    }

    /// A Workload's sidecar, which runs inside of its namespace where it has one.
    pub(super) fn sidecar_spec(&self, exe: &Path, workload: &WorkloadPlan) -> Spec {
        let mut args: Vec<OsString> = vec![
            "proxy".into(),
            "--control-plane".into(),
            self.control_plane.to_string().into(),
            "--trust-domain".into(),
            self.trust_domain.to_string().into(),
            "--trust-bundle".into(),
            self.trust_bundle_file().into(),
            "--token-file".into(),
            self.token_file(workload).into(),
            "--workload".into(),
            workload.full_name().into(),
            "--admin".into(),
            workload.admin().to_string().into(),
            "--telemetry".into(),
            workload.telemetry().to_string().into(),
        ];
        let mut who = Vec::new();
        if let Some(place) = &workload.place {
            let mode = place.interception.mode;
            args.extend(["--intercept".into(), word(mode).into()]);
            who.extend(["--user".into(), sidecar::UID.to_string().into()]);
            who.push("--confined".into());
            // For sockets that have the client's own address.
            who.extend((mode == Mode::TProxy).then(|| "--net-admin".into()));
        }
        let name = ChildName::sidecar(&workload.label);
        supervised(name, exe, &who, exe.into(), args, Vec::new())
    }

    /// A Workload's app, when it has a command. `program` is where its first word was found.
    pub(super) fn app_spec(
        &self,
        exe: &Path,
        program: PathBuf,
        workload: &WorkloadPlan,
    ) -> Option<Spec> {
        let (_, args) = workload.command.split_first()?;
        let args = args.iter().map(OsString::from).collect();
        let mut env = workload.app_env();
        env.extend(path_env(exe));
        let own = workload.env.iter();
        env.extend(own.map(|(name, value)| (name.into(), value.into())));
        let who = user(workload);
        let name = ChildName::app(&workload.label);
        Some(supervised(name, exe, &who, program.into(), args, env))
    }
}

/// Where a command's first word is: a path as it is, this program for its own name, else in PATH.
pub(super) fn find_program(program: &str, exe: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        return Path::new(program).is_file().then(|| program.into());
    }
    if program == "outrider" {
        return Some(exe.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    exe.parent()
        .map(Path::to_path_buf)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// What has to be done in a namespace before its sidecar can start: `outrider proxy-init`.
pub(super) fn init_args(workload: &WorkloadPlan, place: &Place) -> Vec<OsString> {
    let Interception {
        mode,
        exclude_inbound_ports,
        exclude_outbound_ports,
        exclude_inbound_cidrs,
        exclude_outbound_cidrs,
        exclude_uids,
    } = &place.interception;
    let mut args: Vec<OsString> = vec![
        "proxy-init".into(),
        "--mode".into(),
        word(*mode).into(),
        "--mesh-port".into(),
        workload.mesh_port.to_string().into(),
        "--telemetry-port".into(),
        workload.telemetry_port.to_string().into(),
        "--admin-port".into(),
        workload.admin_port.to_string().into(),
        "--proxy-uid".into(),
        sidecar::UID.to_string().into(),
    ];
    let mut excluded = |option: &str, values: String| {
        if !values.is_empty() {
            args.extend([option.into(), values.into()]);
        }
    };
    excluded("--exclude-inbound-ports", list(exclude_inbound_ports));
    excluded("--exclude-outbound-ports", list(exclude_outbound_ports));
    excluded("--exclude-inbound-cidrs", nets(exclude_inbound_cidrs));
    excluded("--exclude-outbound-cidrs", nets(exclude_outbound_cidrs));
    excluded("--exclude-uids", list(exclude_uids));
    args
}

/// What of `outrider supervised` makes a program run as the Workload's app does.
pub(crate) fn user(workload: &WorkloadPlan) -> Vec<OsString> {
    match (&workload.place, workload.run_as_user) {
        (Some(_), Some(user)) => vec!["--user".into(), user.to_string().into()],
        (_, None) | (None, _) => Vec::new(),
    }
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Redirect => "redirect",
        Mode::TProxy => "tproxy",
    }
}

fn nets(nets: &[IpNet]) -> String {
    let nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
    list(&nets)
}

fn list(values: &[impl Display]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(",")
}

/// This program's own folder first in PATH, so that a command finds the `outrider` beside it.
fn path_env(exe: &Path) -> Option<(OsString, OsString)> {
    let mut folders = vec![exe.parent()?.to_path_buf()];
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    Some(("PATH".into(), std::env::join_paths(folders).ok()?))
}

/// Runs through `outrider supervised`, which ends the program when this process ends.
fn supervised(
    name: ChildName,
    exe: &Path,
    options: &[OsString],
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
) -> Spec {
    let mut all: Vec<OsString> = vec![
        "supervised".into(),
        "--parent".into(),
        std::process::id().to_string().into(),
    ];
    all.extend_from_slice(options);
    all.extend(["--".into(), program]);
    all.extend(args);
    Spec {
        name,
        program: exe.to_path_buf(),
        args: all,
        env,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found() {
        let exe = Path::new("/somewhere/outrider-1.0");
        assert_eq!(find_program("outrider", exe).as_deref(), Some(exe));
        assert!(find_program("sh", exe).is_some());
        assert_eq!(find_program("no-such-program-here", exe), None);
        assert_eq!(find_program("/no/such/program", exe), None);
    }

    #[test]
    fn init_is_told_what_the_workload_leaves_out() {
        let mut workload = crate::mesh::workload::tests::order();
        let mut place = Place {
            netns: "outr-123456-order-1".to_owned(),
            addresses: vec!["10.201.0.5".parse().unwrap()],
            interception: Interception::default(),
        };
        workload.mesh_port = 15008;
        workload.telemetry_port = 15020;
        workload.admin_port = 15000;
        let told = |place: &Place| {
            let args: Vec<String> = init_args(&workload, place)
                .into_iter()
                .map(|arg| arg.into_string().unwrap())
                .collect();
            args.join(" ")
        };
        let always = "--mesh-port 15008 --telemetry-port 15020 --admin-port 15000 --proxy-uid 2102";
        assert_eq!(told(&place), format!("proxy-init --mode redirect {always}"));
        place.interception = Interception {
            mode: Mode::TProxy,
            exclude_inbound_ports: vec![22, 9100],
            exclude_outbound_cidrs: vec!["192.0.2.1/24".parse().unwrap()],
            exclude_uids: vec![33],
            ..Interception::default()
        };
        assert_eq!(
            told(&place),
            format!(
                "proxy-init --mode tproxy {always} --exclude-inbound-ports 22,9100 \
                 --exclude-outbound-cidrs 192.0.2.0/24 --exclude-uids 33"
            )
        );
    }
}

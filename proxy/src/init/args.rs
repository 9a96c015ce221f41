//! What can be typed after `init`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::intercept::Mode;

/// Program the network namespace that this runs in, so that its TCP connections go through the
/// sidecar; then verify it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outrider-proxy init                                    intercept everything, in and out
  outrider-proxy init --exclude-outbound-ports 3306,6379 --exclude-outbound-cidrs 10.96.0.1/32
  outrider-proxy init --dry-run                          print the rules, in the syntax of nft
  outrider-proxy init --check                            change nothing; 1 if the rules are not there
  outrider-proxy init --remove                           take everything away again

Needs the capability NET_ADMIN, except for --dry-run. Twice is the same as once.
Exit status: 0 the namespace is as it should be, 1 it is not, 2 the command line cannot be used.")]
pub struct InitArgs {
    /// How inbound connections reach the sidecar; tproxy keeps the client's address for the app
    #[arg(long, env = "OUTRIDER_INIT_MODE", value_enum, default_value_t)]
    pub mode: Mode,
    /// Where outbound connections are sent
    #[arg(long, env = "OUTRIDER_INIT_OUTBOUND_PORT", value_name = "PORT", default_value_t = 15001, value_parser = port())]
    pub outbound_port: u16,
    /// Where inbound connections are sent
    #[arg(long, env = "OUTRIDER_INIT_INBOUND_PORT", value_name = "PORT", default_value_t = 15006, value_parser = port())]
    pub inbound_port: u16,
    /// The sidecar's port for other sidecars: passes
    #[arg(long, env = "OUTRIDER_INIT_MESH_PORT", value_name = "PORT", default_value_t = 15008, value_parser = port())]
    pub mesh_port: u16,
    /// The sidecar's port for metrics and health: passes
    #[arg(long, env = "OUTRIDER_INIT_TELEMETRY_PORT", value_name = "PORT", default_value_t = 15020, value_parser = port())]
    pub telemetry_port: u16,
    /// The sidecar's admin port, on loopback: refused to everyone but the sidecar's user
    #[arg(long, env = "OUTRIDER_INIT_ADMIN_PORT", value_name = "PORT", default_value_t = 15000, value_parser = port())]
    pub admin_port: u16,
    /// Users besides the sidecar's that reach the admin port
    #[arg(
        long,
        env = "OUTRIDER_INIT_ADMIN_UIDS",
        value_name = "UID,..",
        value_delimiter = ','
    )]
    pub admin_uids: Vec<u32>,
    /// The user that the sidecar runs as: its own connections pass
    #[arg(long, env = "OUTRIDER_INIT_PROXY_UID", value_name = "UID", default_value_t = 2102, value_parser = clap::value_parser!(u32).range(1..=i64::from(u32::MAX - 1)))]
    pub proxy_uid: u32,
    /// Ports of the app whose clients are not intercepted
    #[arg(long, env = "OUTRIDER_INIT_EXCLUDE_INBOUND_PORTS", value_name = "PORT,..", value_delimiter = ',', value_parser = port())]
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports that the app reaches without the sidecar
    #[arg(long, env = "OUTRIDER_INIT_EXCLUDE_OUTBOUND_PORTS", value_name = "PORT,..", value_delimiter = ',', value_parser = port())]
    pub exclude_outbound_ports: Vec<u16>,
    /// Clients that reach the app without the sidecar
    #[arg(long, env = "OUTRIDER_INIT_EXCLUDE_INBOUND_CIDRS", value_name = "CIDR,..", value_delimiter = ',', value_parser = cidr)]
    pub exclude_inbound_cidrs: Vec<IpNet>,
    /// Destinations that the app reaches without the sidecar
    #[arg(long, env = "OUTRIDER_INIT_EXCLUDE_OUTBOUND_CIDRS", value_name = "CIDR,..", value_delimiter = ',', value_parser = cidr)]
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Users whose connections are not intercepted
    #[arg(
        long,
        env = "OUTRIDER_INIT_EXCLUDE_UIDS",
        value_name = "UID,..",
        value_delimiter = ','
    )]
    pub exclude_uids: Vec<u32>,
    /// What the rules are written with; auto takes nftables where the kernel has it
    #[arg(long, env = "OUTRIDER_INIT_BACKEND", value_enum, default_value_t)]
    pub backend: Backend,
    /// Take the rules away again
    #[arg(long, conflicts_with_all = ["check", "dry_run"])]
    pub remove: bool,
    /// Change nothing, only verify
    #[arg(long, conflicts_with = "dry_run")]
    pub check: bool,
    /// Change nothing, only print what would be written
    #[arg(long)]
    pub dry_run: bool,
}

/// What the rules are written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// nftables where the kernel has it, else iptables
    #[default]
    Auto,
    /// netlink, without a program
    Nftables,
    /// iptables-restore and ip6tables-restore
    Iptables,
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

/// `10.0.0.0/8`, or an address alone.
fn cidr(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| "expected ADDRESS/BITS, for instance 10.0.0.0/8".to_owned())?;
    if network.trunc() == network {
        Ok(network)
    } else {
        Err(format!(
            "it has bits beyond its prefix: write {} for the network",
            network.trunc()
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: InitArgs,
    }

    fn parse(arguments: &[&str]) -> Result<InitArgs, String> {
        Command::try_parse_from([&["init"], arguments].concat())
            .map(|command| command.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let args = parse(&[
            "--exclude-outbound-ports",
            "3306,6379",
            "--exclude-outbound-cidrs",
            "10.0.0.0/8,fd00::/8,192.0.2.7",
        ])
        .unwrap();
        assert_eq!(args.exclude_outbound_ports, [3306, 6379]);
        let cidrs: Vec<String> = args
            .exclude_outbound_cidrs
            .iter()
            .map(IpNet::to_string)
            .collect();
        assert_eq!(cidrs, ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in [
            ["--outbound-port", "0"],
            ["--outbound-port", "65536"],
            ["--proxy-uid", "0"],
            ["--proxy-uid", "4294967295"],
            ["--exclude-uids", "-1"],
            ["--exclude-outbound-ports", "80,"],
            ["--exclude-outbound-ports", "80-90"],
            ["--exclude-inbound-cidrs", "10.0.0.0/33"],
            ["--exclude-inbound-cidrs", "10.0.0.1/8"],
            ["--exclude-inbound-cidrs", "localhost"],
            ["--mode", "nat"],
            ["--check", "--remove"],
            ["--check", "--dry-run"],
            ["--remove", "--dry-run"],
        ] {
            assert!(parse(&arguments).is_err(), "{arguments:?}");
        }
        let error = parse(&["--exclude-inbound-cidrs", "10.0.0.1/8"]).unwrap_err();
        assert!(error.contains("write 10.0.0.0/8"), "{error}");
    }
}

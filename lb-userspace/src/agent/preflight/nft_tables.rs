//! kube-proxy's tables and chains in nftables, asked of the kernel: an image may have no `nft`.

use std::{collections::BTreeSet, io};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{ChainAttribute, ChainMessage, NfTablesMessage},
};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkPayload},
    sys::protocols::NETLINK_NETFILTER,
};

use crate::agent::{leftovers, netlink::Asker};

/// A chain of nftables.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    /// `ip`, `ip6` or another family.
    family: &'static str,
    table: String,
    name: String,
}

/// What there is of kube-proxy's, a line each: its own tables, and its chains in those of
/// `iptables-nft`.
pub(super) fn of_kube_proxy() -> io::Result<Vec<String>> {
    Ok(lines(&chains()?))
}

fn chains() -> io::Result<Vec<Chain>> {
    let mut asker = Asker::open(NETLINK_NETFILTER)?;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NfTablesMessage::GetChain(ChainMessage {
        attributes: Vec::new(),
    });
    let request = NetfilterMessage::new(header, request);
    asker.send(NLM_F_REQUEST | NLM_F_DUMP, request)?;
    let mut chains = Vec::new();
    let told = asker.answers::<NetfilterMessage>(|message| {
        if let NetlinkPayload::InnerMessage(message) = message.payload
            && let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.inner
        {
            chains.push(read(message.header.family, chain));
        }
    });
    match told {
        // The kernel has no nftables (`nfnetlink_rcv_msg`).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        told => told.map(|()| chains),
    }
}

fn read(family: NetfilterProtoFamily, message: ChainMessage) -> Chain {
    let family = match family {
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        _ => "",
    };
    let mut chain = Chain {
        family,
        ..Chain::default()
    };
    for attribute in message.attributes {
        match attribute {
            ChainAttribute::Table(table) => chain.table = table,
            ChainAttribute::Name(name) => chain.name = name,
            _ => {}
        }
    }
    chain
}

fn lines(chains: &[Chain]) -> Vec<String> {
    let line = |chain: &Chain| {
        let Chain {
            family,
            table,
            name,
        } = chain;
        if leftovers::TABLES.contains(&(*family, table.as_str())) {
            Some(format!("nftables table {family} {table}"))
        } else if name == leftovers::CANARY {
            Some(format!(
                "chains KUBE-* in table {family} {table} (iptables-nft)"
            ))
        } else {
            None
        }
    };
    let lines: BTreeSet<_> = chains.iter().filter_map(line).collect();
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::agent::namespace::Namespace;

    #[test]
    fn only_what_is_kube_proxys_is_told() {
        let chain = |family, table: &str, name: &str| Chain {
            family,
            table: table.to_owned(),
            name: name.to_owned(),
        };
        let chains = [
            chain("ip", "kube-proxy", "services"),
            chain("ip", "kube-proxy", "filter-input"),
            chain("inet", "kube-proxy", "x"),
            chain("ip6", "mangle", leftovers::CANARY),
            chain("ip", "mangle", "KUBE-KUBELET-CANARY"),
            chain("ip", "kubelet", "services"),
        ];
        let expected = [
            "chains KUBE-* in table ip6 mangle (iptables-nft)",
            "nftables table ip kube-proxy",
        ];
        assert_eq!(lines(&chains), expected);
    }

    /// Needs root and nft.
    #[test]
    fn the_kernel_tells_of_kube_proxys_table() {
        let (before, after) = Namespace::new().run(|| {
            let before = of_kube_proxy().unwrap();
            for words in [
                "add table ip kube-proxy",
                "add chain ip kube-proxy services",
            ] {
                let status = Command::new("nft").args(words.split(' ')).status();
                assert!(status.unwrap().success(), "{words}");
            }
            (before, of_kube_proxy().unwrap())
        });
        assert_eq!(before, [""; 0]);
        assert_eq!(after, ["nftables table ip kube-proxy"]);
    }
}

//! The tables of `lbctl maps dump`. Pure.

use super::{
    output::{Detail, list, table, text},
    snapshot::{
        Backend, Choice, Config, FamilyConfig, Flow, Frontend, Held, Link, Netns, NextHop, Reason,
        Section, Service, Slot, Snapshot, Socket, WithoutBackends,
    },
    status,
};

/// The tables, each under its name if there are several.
pub(super) fn render(snapshot: &Snapshot, detail: Detail) -> String {
    let Snapshot { sections } = snapshot;
    if let [only] = &sections[..] {
        return text(lines(only, detail));
    }
    let titled = sections.iter().map(|section| {
        let title = title(section);
        text([title].into_iter().chain(lines(section, detail)))
    });
    titled.collect::<Vec<_>>().join("\n")
}

fn title(section: &Section) -> String {
    let name = section.table().name();
    let rows = match section {
        Section::Config(_) | Section::Status(_) => return name.to_owned(),
        Section::Links(rows) => rows.len(),
        Section::Frontends(rows) => rows.len(),
        Section::Slots(rows) => rows.len(),
        Section::Backends(rows) => rows.len(),
        Section::Services(rows) => rows.len(),
        Section::Flows(rows) => rows.len(),
        Section::Sockets(rows) => rows.len(),
        Section::Netns(rows) => rows.len(),
        Section::Reasons(rows) => rows.len(),
    };
    format!("{name} ({rows})")
}

fn lines(section: &Section, detail: Detail) -> Vec<String> {
    match section {
        Section::Config(config) => config_lines(config),
        Section::Links(rows) => links(rows),
        Section::Frontends(rows) => frontends(rows, detail),
        Section::Slots(rows) => slots(rows),
        Section::Backends(rows) => backends(rows),
        Section::Services(rows) => services(rows),
        Section::Flows(rows) => flows(rows, detail),
        Section::Sockets(rows) => sockets(rows, detail),
        Section::Netns(rows) => netns(rows),
        Section::Reasons(rows) => reasons(rows),
        Section::Status(Some(status)) => status::agent_lines(status),
        Section::Status(None) => vec!["none".to_owned()],
    }
}

fn config_lines(config: &Config) -> Vec<String> {
    let Config {
        epoch,
        snat_ports,
        ipv4,
        ipv6,
    } = config;
    let family = |name: &str, config: &FamilyConfig| {
        let FamilyConfig {
            node_address,
            cluster_network,
        } = config;
        [
            vec![
                format!("{name} node address"),
                or_dash(node_address.as_ref()),
            ],
            vec![
                format!("{name} cluster network"),
                or_dash(cluster_network.as_ref()),
            ],
        ]
    };
    let rows = [
        vec!["epoch".to_owned(), epoch.to_string()],
        vec!["SNAT ports".to_owned(), snat_ports.to_string()],
    ];
    table(
        &["FACT", "VALUE"],
        rows.into_iter()
            .chain(family("IPv4", ipv4))
            .chain(family("IPv6", ipv6)),
    )
}

fn links(rows: &[Link]) -> Vec<String> {
    table(
        &["INDEX", "INTERFACE", "DIRECT", "XDP-TARGET"],
        rows.iter().map(|link| {
            vec![
                link.index.to_string(),
                or_dash(link.interface.as_ref()),
                yes(link.direct),
                yes(link.xdp_target),
            ]
        }),
    )
}

fn frontends(rows: &[Frontend], detail: Detail) -> Vec<String> {
    const HEADER: [&str; 8] = [
        "ADDRESS",
        "PORT",
        "PROTO",
        "SERVICE",
        "INSIDE",
        "OUTSIDE",
        "INSIDE-SLOTS",
        "OUTSIDE-SLOTS",
    ];
    let columns = columns(&HEADER, 2, detail);
    table(
        columns,
        rows.iter().map(|row| {
            let (port, protocol) = if row.whole_address {
                ("*".to_owned(), "*".to_owned())
            } else {
                (row.at.port.to_string(), row.protocol.clone())
            };
            let mut cells = vec![
                row.at.address.to_string(),
                port,
                protocol,
                if row.whole_address {
                    "-".to_owned()
                } else {
                    service_name(row.service.as_ref(), row.service_id)
                },
                choice(&row.inside, detail),
                choice(&row.outside, detail),
                slot_range(&row.inside),
                slot_range(&row.outside),
            ];
            cells.truncate(columns.len());
            cells
        }),
    )
}

fn choice(choice: &Choice, detail: Detail) -> String {
    match (choice.slot_count, choice.without_backends) {
        (0, WithoutBackends::Reject) => "reject".to_owned(),
        (0, WithoutBackends::Drop) => "drop".to_owned(),
        (_, _) => list(&choice.backends, detail),
    }
}

fn slot_range(choice: &Choice) -> String {
    format!("{}+{}", choice.first_slot, choice.slot_count)
}

fn slots(rows: &[Slot]) -> Vec<String> {
    table(
        &["FAMILY", "SLOT", "VALUE", "MEANING"],
        rows.iter().map(|slot| {
            let (value, meaning) = match &slot.holds {
                Held::Backend(backend) => (backend.index, backend.to_string()),
                Held::TableOffset(slot) => (*slot, "first slot of this list's table".to_owned()),
                Held::TableSize(count) => (*count, "slots of this list's table".to_owned()),
                Held::Position(position) => (*position, "position in a list".to_owned()),
            };
            vec![
                slot.family.to_string(),
                slot.index.to_string(),
                value.to_string(),
                meaning,
            ]
        }),
    )
}

fn backends(rows: &[Backend]) -> Vec<String> {
    table(
        &[
            "FAMILY",
            "BACKEND",
            "ADDRESS",
            "PORT",
            "GENERATION",
            "STATE",
        ],
        rows.iter().map(|row| {
            let at = row.entry.at;
            vec![
                row.family.to_string(),
                row.entry.index.to_string(),
                or_dash(at.map(|at| at.address).as_ref()),
                or_dash(at.map(|at| at.port).as_ref()),
                row.generation.to_string(),
                or_dash(
                    Some(row.entry.marks().join(", "))
                        .filter(|marks| !marks.is_empty())
                        .as_ref(),
                ),
            ]
        }),
    )
}

fn services(rows: &[Service]) -> Vec<String> {
    table(
        &[
            "ID", "SERVICE", "PROTO", "FAMILY", "PACKETS", "BYTES", "FLOWS", "REJECTS",
        ],
        rows.iter().map(|service| {
            vec![
                service.id.to_string(),
                service.full_name(),
                service.protocol.clone(),
                service.family.to_string(),
                service.packets.to_string(),
                service.bytes.to_string(),
                service.flows.to_string(),
                service.rejects.to_string(),
            ]
        }),
    )
}

fn flows(rows: &[Flow], detail: Detail) -> Vec<String> {
    const HEADER: [&str; 16] = [
        "DIRECTION",
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "NEW-SOURCE",
        "NEW-DESTINATION",
        "SERVICE",
        "HALF",
        "ROUTE",
        "STAGE",
        "NEXT-HOP",
        "IDLE",
        "BACKEND",
        "HOP-MTU",
        "HOP-EPOCH",
        "HOP-AGE",
    ];
    let columns = columns(&HEADER, 3, detail);
    table(
        columns,
        rows.iter().map(|flow| {
            let hop = flow.next_hop.as_ref();
            let mut cells = vec![
                flow.direction.to_owned(),
                flow.protocol.clone(),
                flow.source.to_string(),
                flow.destination.to_string(),
                flow.new_source.to_string(),
                flow.new_destination.to_string(),
                service_name(flow.service.as_ref(), flow.service_id),
                flow.half.to_owned(),
                flow.route.to_owned(),
                flow.stage.to_owned(),
                or_dash(hop.map(next_hop).as_ref()),
                format!("{}s", flow.idle_seconds),
                format!("{} (generation {})", flow.backend, flow.generation),
                or_dash(hop.and_then(|hop| hop.mtu).as_ref()),
                or_dash(hop.map(|hop| hop.epoch).as_ref()),
                or_dash(hop.map(|hop| format!("{}s", hop.age_seconds)).as_ref()),
            ];
            cells.truncate(columns.len());
            cells
        }),
    )
}

fn sockets(rows: &[Socket], detail: Detail) -> Vec<String> {
    const HEADER: [&str; 7] = [
        "SOCKET",
        "PROTO",
        "SERVICE-ADDRESS",
        "BACKEND-ADDRESS",
        "SERVICE",
        "HALF",
        "BACKEND",
    ];
    let columns = columns(&HEADER, 1, detail);
    table(
        columns,
        rows.iter().map(|socket| {
            let mut cells = vec![
                socket.cookie.to_string(),
                socket.protocol.clone(),
                socket.service_address.to_string(),
                socket.backend_address.to_string(),
                service_name(socket.service.as_ref(), socket.service_id),
                socket.half.to_owned(),
                format!("{} (generation {})", socket.backend, socket.generation),
            ];
            cells.truncate(columns.len());
            cells
        }),
    )
}

fn netns(rows: &[Netns]) -> Vec<String> {
    table(
        &["NETNS", "ADDRESSES"],
        rows.iter().map(|row| {
            let addresses: Vec<_> = row.addresses.iter().map(ToString::to_string).collect();
            vec![row.cookie.to_string(), addresses.join(", ")]
        }),
    )
}

fn next_hop(hop: &NextHop) -> String {
    let interface = match &hop.interface {
        Some(name) => name.clone(),
        None => format!("if{}", hop.interface_index),
    };
    match &hop.destination_mac {
        Some(mac) => format!("{interface} {mac}"),
        None => interface,
    }
}

fn reasons(rows: &[Reason]) -> Vec<String> {
    table(
        &["REASON", "PACKETS"],
        rows.iter()
            .map(|row| vec![row.reason.to_owned(), row.packets.to_string()]),
    )
}

/// All columns, or all but the last `extra` ones.
fn columns<'a>(header: &'a [&'a str], extra: usize, detail: Detail) -> &'a [&'a str] {
    match detail {
        Detail::Brief => &header[..header.len() - extra],
        Detail::Full => header,
    }
}

fn service_name(name: Option<&String>, id: u32) -> String {
    name.map_or_else(|| format!("service {id} (no name)"), Clone::clone)
}

fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

//! `lbctl maps`.

use clap::Subcommand;
use lb_common::maps as names;

use super::{
    Error,
    collect::Collector,
    output::Format,
    pinned::PinnedMaps,
    snapshot::{Family, Section, Snapshot, Table},
    tables,
};

const EXAMPLES: &str = "\
Maps:
  config      facts of the node that the programs know
  links       what the programs may do with an interface
  frontends   address, port and protocol clients address, and the backends they lead to
  slots       what the frontends choose from: backends, or lists of backends with Maglev tables
  backends    endpoints, by index
  services    names and counters of the service ids
  flows       translated connections, a row for either direction
  sockets     sockets that were led straight to a backend
  netns       network namespaces of the pods whose sockets are led
  reasons     packets passed, dropped or rejected, by reason
  status      the agent's own account

The name of a kernel map is understood too; FLOWS6 are the flows of IPv6.

Examples:
  lbctl maps dump
  lbctl maps dump flows -o wide
  lbctl maps dump FRONTENDS6 -o json | jq '.frontends[] | select(.service == \"shop/web:http\")'";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Shows the content of one map, or of all, with numbers resolved to names.
    #[command(after_help = EXAMPLES)]
    Dump {
        /// The map to show; all of them if none is named.
        #[arg(value_parser = parse_selection)]
        map: Option<Selection>,
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// What is asked for: a table, and which family's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    table: Table,
    family: Option<Family>,
}

fn parse_selection(name: &str) -> Result<Selection, String> {
    let table = Table::ALL
        .into_iter()
        .find(|table| name.eq_ignore_ascii_case(table.name()));
    if let Some(table) = table {
        return Ok(Selection {
            table,
            family: None,
        });
    }
    let (v4, v6) = (Some(Family::V4), Some(Family::V6));
    let (table, family) = match name.to_ascii_uppercase().as_str() {
        names::FRONTENDS4 | names::ABSENT4 => (Table::Frontends, v4),
        names::FRONTENDS6 | names::ABSENT6 => (Table::Frontends, v6),
        names::SLOTS4 => (Table::Slots, v4),
        names::SLOTS6 => (Table::Slots, v6),
        names::BACKENDS4 => (Table::Backends, v4),
        names::BACKENDS6 => (Table::Backends, v6),
        names::FLOWS4 => (Table::Flows, v4),
        names::FLOWS6 => (Table::Flows, v6),
        names::SOCKETS4 => (Table::Sockets, v4),
        names::SOCKETS6 => (Table::Sockets, v6),
        names::SERVICE_NAMES | names::SERVICE_COUNTERS => (Table::Services, None),
        _ => {
            return Err(format!(
                "the maps are {} and {}",
                table_names(),
                kernel_names()
            ));
        }
    };
    Ok(Selection { table, family })
}

fn table_names() -> String {
    Table::ALL.map(Table::name).join(", ")
}

fn kernel_names() -> String {
    names::ALL.join(", ")
}

impl Verb {
    pub(super) fn run(&self, maps: &PinnedMaps) -> Result<String, Error> {
        match self {
            Self::Dump { map, output } => output.render(&read(maps, *map)?, tables::render),
        }
    }
}

fn read(maps: &PinnedMaps, selection: Option<Selection>) -> Result<Snapshot, Error> {
    let collector = Collector::new(maps)?;
    let section = |table, family| {
        Ok(match table {
            Table::Config => Section::Config(collector.config()?),
            Table::Links => Section::Links(collector.links()?),
            Table::Frontends => Section::Frontends(collector.frontends(family)?),
            Table::Slots => Section::Slots(collector.slots(family)?),
            Table::Backends => Section::Backends(collector.backends(family)?),
            Table::Services => Section::Services(collector.services(family)?),
            Table::Flows => Section::Flows(collector.flows(family)?),
            Table::Sockets => Section::Sockets(collector.sockets(family)?),
            Table::Netns => Section::Netns(collector.netns()?),
            Table::Reasons => Section::Reasons(collector.reasons()?),
            Table::Status => Section::Status(maps.status()?.map(Box::new)),
        })
    };
    let sections = match selection {
        Some(Selection { table, family }) => vec![section(table, family)?],
        None => Table::ALL
            .into_iter()
            .map(|table| section(table, None))
            .collect::<Result<_, Error>>()?,
    };
    Ok(Snapshot { sections })
}

//! Which entries are stale, and what becomes of them in a kernel.

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as Number, Status,
        Tuple,
    },
};
use rtnetlink::packet_core::{
    DoneMessage, NLM_F_DUMP_INTR, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};

use super::{
    netlink::{Family, List},
    *,
};
use crate::agent::namespace::Namespace;
use crate::model::{Change, Endpoint, EndpointPort, EndpointSlice, ObjectName, ServiceType};

const NAME: &str = "dns";

/// A service with a UDP and a TCP port on every kind of address, in both families.
fn service() -> Service {
    let port = |name: &str, protocol, node_port| ServicePort {
        name: name.into(),
        protocol,
        port: 53,
        node_port,
    };
    let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
    Service {
        name: ObjectName::new("default", NAME),
        created: 0,
        kind: ServiceType::LoadBalancer,
        cluster_ips: ips(&["10.96.0.1", "fd00:96::1"]),
        external_ips: ips(&["198.51.100.1"]),
        ingress_ips: ips(&["203.0.113.1"]),
        ports: vec![
            port("udp", Protocol::Udp, 30053),
            port("tcp", Protocol::Tcp, 30054),
        ],
        internal_policy: crate::model::TrafficPolicy::Local,
        external_policy: crate::model::TrafficPolicy::Local,
        affinity: None,
        algorithm: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
    }
}

/// A slice with an endpoint that serves while it terminates, and one that does not serve.
fn slice(prefix: &str) -> EndpointSlice {
    let endpoint = |host: &str, serving| Endpoint {
        node: Some("elsewhere".into()),
        ready: false,
        serving,
        terminating: serving,
        ..Endpoint::at(format!("{prefix}{host}").parse().unwrap())
    };
    EndpointSlice {
        name: ObjectName::new("default", format!("{NAME}-{prefix}")),
        service: NAME.into(),
        ports: vec![EndpointPort {
            name: "udp".into(),
            protocol: Protocol::Udp,
            port: 5353,
        }],
        endpoints: vec![endpoint("1", true), endpoint("2", false)],
    }
}

fn index(endpoints: bool) -> Index {
    let service = service();
    let mut changes = vec![Change::Service(service.name.clone(), Some(service))];
    if endpoints {
        let slices = [slice("10.1.0."), slice("fd00:1::")];
        changes.extend(slices.map(|slice| Change::Slice(slice.name.clone(), Some(slice))));
    }
    let mut index = Index::default();
    for change in changes {
        index.apply(change, &mut crate::control::index::Touched::default());
    }
    index
}

fn services(endpoints: bool) -> Services {
    Services::of(&index(endpoints), &["192.0.2.1".parse().unwrap()].into())
}

fn entry(destination: &str, answers: &str) -> Entry {
    Entry {
        destination: destination.parse().unwrap(),
        answers: answers.parse().unwrap(),
    }
}

/// Where clients sent to, who answers, and what that is.
const ROWS: [(&str, &str, Relation); 14] = [
    ("10.96.0.1:53", "10.1.0.1:5353", Relation::Good),
    ("10.96.0.1:53", "10.1.0.2:5353", Relation::Stale),
    ("10.96.0.1:53", "10.1.0.9:5353", Relation::Stale),
    // G3: the port of the endpoint counts.
    ("10.96.0.1:53", "10.1.0.1:53", Relation::Stale),
    // G5: what was let through untranslated, before there was an endpoint.
    ("10.96.0.1:53", "10.96.0.1:53", Relation::Stale),
    ("198.51.100.1:53", "10.1.0.1:5353", Relation::Good),
    ("203.0.113.1:53", "10.1.0.7:5353", Relation::Stale),
    ("192.0.2.1:30053", "10.1.0.1:5353", Relation::Good),
    ("192.0.2.1:30053", "10.1.0.7:5353", Relation::Stale),
    // G7: the port of a node port at another address is none.
    ("192.0.2.9:30053", "192.0.2.9:30053", Relation::Foreign),
    ("10.96.0.1:54", "10.1.0.9:5353", Relation::Foreign),
    ("192.0.2.1:30054", "10.1.0.9:5353", Relation::Foreign),
    ("[fd00:96::1]:53", "[fd00:1::1]:5353", Relation::Good),
    ("[fd00:96::1]:53", "[fd00:1::2]:5353", Relation::Stale),
];

#[test]
fn g02_an_entry_is_stale_unless_a_serving_endpoint_answers() {
    let services = services(true);
    for (destination, answers, expected) in ROWS {
        let relation = services.relation(&entry(destination, answers));
        assert_eq!(relation, expected, "{destination} {answers}");
    }
}

#[test]
fn g02_what_leads_to_the_service_that_has_an_address_is_good() {
    let service = service();
    let other = |name: &str, created| Service {
        name: ObjectName::new("default", name),
        created,
        ..service.clone()
    };
    let entry = entry("203.0.113.1:53", "10.1.0.1:5353");
    for (name, created, expected) in [
        ("a", 1, Relation::Good),
        ("z", 0, Relation::Good),
        ("a", 0, Relation::Stale),
        ("z", -1, Relation::Stale),
    ] {
        let mut index = index(true);
        let service = other(name, created);
        let change = Change::Service(service.name.clone(), Some(service));
        index.apply(change, &mut crate::control::index::Touched::default());
        let services = Services::of(&index, &BTreeSet::new());
        assert_eq!(services.relation(&entry), expected, "{name}, {created}");
    }
}

#[test]
fn g04_without_endpoints_or_service_all_are_stale() {
    let entry = entry("10.96.0.1:53", "10.1.0.1:5353");
    assert_eq!(services(false).relation(&entry), Relation::Stale);
    let none = Services::default();
    assert_eq!(none.relation(&entry), Relation::Foreign);
    let gone = none.and_former(&services(true));
    assert_eq!(gone.relation(&entry), Relation::Stale);
}

fn family(destination: &str) -> Family {
    if destination.starts_with('[') {
        Family::V6
    } else {
        Family::V4
    }
}

/// An entry of a client with this port, as the kernel takes it.
fn attributes(
    protocol: Number,
    client_port: u16,
    destination: &str,
    answers: &str,
) -> Vec<ConntrackAttribute> {
    let (destination, answers): (SocketAddr, SocketAddr) =
        (destination.parse().unwrap(), answers.parse().unwrap());
    let client: IpAddr = match destination {
        SocketAddr::V4(_) => "10.2.0.1".parse().unwrap(),
        SocketAddr::V6(_) => "fd00:2::1".parse().unwrap(),
    };
    let client = SocketAddr::new(client, client_port);
    let tuple = |from: SocketAddr, to: SocketAddr| {
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(from.ip()),
                IPTuple::DestinationAddress(to.ip()),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(from.port()),
                ProtoTuple::DestinationPort(to.port()),
            ]),
        ]
    };
    vec![
        ConntrackAttribute::CtaTupleOrig(tuple(client, destination)),
        ConntrackAttribute::CtaTupleReply(tuple(answers, client)),
        ConntrackAttribute::CtaTimeout(600),
        ConntrackAttribute::CtaStatus(Status::Confirmed),
    ]
}

/// Needs root: entries are made and deleted in a namespace of their own.
#[test]
fn g01_stale_udp_entries_go_from_the_kernel_and_no_others() {
    let namespace = Namespace::new();
    let (reports, left) = namespace.run(|| {
        let mut socket = netlink::Conntrack::open().unwrap();
        for (port, (to, by, _)) in (1024..).zip(&ROWS) {
            let entry = attributes(Number::Udp, port, to, by);
            socket.add(family(to), entry).unwrap();
        }
        let reports = look(&services(true)).unwrap();
        (reports, entries(&mut socket))
    });
    let of = |relation| ROWS.iter().filter(move |row| row.2 == relation);
    let stays = ROWS.iter().filter(|row| row.2 != Relation::Stale);
    let stays: HashSet<_> = stays.map(|(to, by, _)| entry(to, by)).collect();
    assert_eq!(left.into_iter().collect::<HashSet<_>>(), stays);
    let deleted = reports.iter().map(|report| report.deleted).sum::<usize>();
    assert_eq!(deleted, of(Relation::Stale).count());
    let good = reports.iter().map(|report| report.left).sum::<usize>();
    assert_eq!(good, of(Relation::Good).count());
}

#[test]
fn g08_tcp_entries_stay() {
    let namespace = Namespace::new();
    let reports = namespace.run(|| {
        let mut socket = netlink::Conntrack::open().unwrap();
        let tcp = attributes(Number::Tcp, 1024, "10.96.0.1:53", "10.1.0.9:5353");
        socket.add(Family::V4, tcp).unwrap();
        look(&services(true)).unwrap()
    });
    let [v4, v6] = reports.map(|report| (report.deleted, report.left));
    assert_eq!((v4, v6), ((0, 0), (0, 0)));
}

/// A message of a list, as the kernel sends it.
fn told(flags: u16, payload: NetlinkPayload<NetfilterMessage>) -> NetlinkMessage<NetfilterMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    NetlinkMessage::new(header, payload)
}

fn told_of(flags: u16, (destination, answers): (&str, &str)) -> NetlinkMessage<NetfilterMessage> {
    let entry = attributes(Number::Udp, 1024, destination, answers);
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let message = NetfilterMessage::new(header, ConntrackMessage::New(entry));
    told(flags, NetlinkPayload::from(message))
}

#[test]
fn g06_what_an_interrupted_list_has_is_used() {
    let (first, second) = (
        ("10.96.0.1:53", "10.1.0.1:5353"),
        ("10.96.0.1:53", "10.1.0.9:5353"),
    );
    let done = || NetlinkPayload::Done(DoneMessage::default());
    let lists = [
        ([0, 0, 0], true),
        ([NLM_F_DUMP_INTR, 0, 0], false),
        ([0, NLM_F_DUMP_INTR, 0], false),
        ([0, 0, NLM_F_DUMP_INTR], false),
    ];
    for ([one, two, last], complete) in lists {
        let messages = [
            told_of(one, first),
            told_of(two, second),
            told(last, done()),
        ];
        let (mut list, mut taken) = (List::default(), Vec::new());
        for message in messages {
            list.add(message, |entry, _| taken.push(entry));
        }
        let all = [first, second].map(|(destination, answers)| entry(destination, answers));
        assert_eq!(taken, all);
        assert_eq!(list.is_complete(), complete);
    }
}

fn entries(socket: &mut netlink::Conntrack) -> Vec<Entry> {
    let mut entries = Vec::new();
    for family in [Family::V4, Family::V6] {
        socket.each(family, |entry, _| entries.push(entry)).unwrap();
    }
    entries
}

#[test]
fn the_kernel_is_asked_again_only_while_entries_are_left() {
    let mut cleaner = Cleaner::new();
    let after = |cleaner: &mut Cleaner, reports: Reports| {
        let (sender, receiver) = channel();
        sender.send(reports).unwrap();
        cleaner.state = State::Watching;
        cleaner.running = Some(receiver);
        assert!(!cleaner.is_due());
        assert!(cleaner.poll().is_some());
        assert!(cleaner.poll().is_none());
        cleaner.services_changed();
        cleaner.is_due()
    };
    assert!(cleaner.is_due());
    let report = |left| Report {
        deleted: 3,
        left,
        complete: true,
        took: Duration::ZERO,
    };
    assert!(after(&mut cleaner, Ok([report(0), report(1)])));
    assert!(!after(&mut cleaner, Ok([report(0), report(0)])));
    let interrupted = Report {
        complete: false,
        ..report(0)
    };
    assert!(after(&mut cleaner, Ok([report(0), interrupted])));
    assert!(after(&mut cleaner, Err(io::Error::other("no"))));
}

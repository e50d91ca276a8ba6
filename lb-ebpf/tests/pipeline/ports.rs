//! No two live flows share a tuple: the ports of translated sources.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{counters::Reason, proto};
use lb_ebpf::{Hook, Verdict};
use proptest::{collection::vec, prelude::*, sample};

use crate::support::{
    ends::{PROTOCOLS, remote as backend, remote_node as node, service},
    family::{Family, at},
    frame::Frame,
    node::Node,
    tables::{SNAT_PORTS, Way},
    wire,
};

const HOOK: Hook = Hook::XDP_EXTERNAL;

/// Opens a flow; yields the source its backend sees, or the verdict.
fn open(node: &mut Node, hook: Hook, frame: &Frame) -> Result<SocketAddr, Verdict> {
    match node.see(hook, frame) {
        (verdict @ (Verdict::Pass | Verdict::Drop | Verdict::Reject(_)), _) => Err(verdict),
        (_, bytes) => Ok(wire::source(&bytes)),
    }
}

/// Has the backend of a flow answer; yields who the client believes it is talking to, and the
/// client.
fn answer(node: &mut Node, hook: Hook, reply: &Frame) -> (SocketAddr, SocketAddr) {
    wire::addresses(&node.see(hook, reply).1)
}

#[test]
fn clients_with_equal_ports_are_told_apart_at_their_backend() {
    const CLIENTS: u16 = 400;
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            for port in [*SNAT_PORTS.start() + 7, 4000] {
                let mut node = node(family);
                let clients = (1..=CLIENTS).map(|number| at(family.client(number), port));
                let mut sources = BTreeSet::new();
                for client in clients {
                    let frame = Frame::first(protocol, client, service(family));
                    let source = open(&mut node, HOOK, &frame).unwrap();
                    assert_eq!(source.ip(), family.node());
                    assert!(SNAT_PORTS.contains(&source.port()));
                    assert!(sources.insert(source), "{source} is used twice");
                    let reply = Frame::next(protocol, backend(family), source);
                    assert_eq!(answer(&mut node, HOOK, &reply), (service(family), client));
                }
                assert_eq!(node.flows.len(), usize::from(CLIENTS) * 2);
            }
        }
    }
}

#[test]
fn a_clients_port_is_kept_if_it_may_be_and_is_free() {
    let (first, last) = (*SNAT_PORTS.start(), *SNAT_PORTS.end());
    for family in Family::BOTH {
        for (port, kept) in [
            (first - 1, false),
            (first, true),
            (last, true),
            (last + 1, false),
        ] {
            let mut node = node(family);
            let frame = Frame::udp(at(family.client(1), port), service(family));
            let source = open(&mut node, HOOK, &frame).unwrap();
            assert_eq!(source.port() == port, kept, "{port} became {source}");
        }
    }
}

/// Two CPUs open the same flow at once: each sees that it has no rows, and reserves a tuple.
#[test]
fn l10_who_opens_a_flow_last_goes_on_with_the_rows_of_who_was_first() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            // The second client keeps its port, so that both reserve the same tuple.
            for port in [4000, *SNAT_PORTS.start() + 7] {
                let frame = Frame::first(protocol, at(family.client(1), port), service(family));
                let mut first = node(family);
                first.tables.dice.borrow_mut().extend([0, 0]);
                let source = open(&mut first, HOOK, &frame).unwrap();

                let mut last = node(family);
                last.tables.dice.borrow_mut().extend([0, u32::MAX]);
                last.flows.overtaken_by(&first.flows);
                assert_eq!(open(&mut last, HOOK, &frame).unwrap(), source);
                assert!(last.flows.same_rows(&first.flows));
                let reply = Frame::next(protocol, backend(family), source);
                let answered = answer(&mut last, HOOK, &reply);
                assert_eq!(answered, (service(family), at(family.client(1), port)));
            }
        }
    }
}

#[test]
fn drawn_ports_span_the_range() {
    for (number, port) in [(0, *SNAT_PORTS.start()), (u32::MAX, *SNAT_PORTS.end())] {
        let mut node = node(Family::V4);
        // The first number chooses the backend.
        node.tables.dice.borrow_mut().extend([0, number]);
        let frame = Frame::udp(at(Family::V4.client(1), 4000), service(Family::V4));
        assert_eq!(open(&mut node, HOOK, &frame).unwrap().port(), port);
    }
}

#[test]
fn the_protocols_have_ports_of_their_own() {
    let client = at(Family::V6.client(1), *SNAT_PORTS.start());
    let mut node = node(Family::V6);
    for protocol in PROTOCOLS {
        let frame = Frame::first(protocol, client, service(Family::V6));
        assert_eq!(open(&mut node, HOOK, &frame).unwrap().port(), client.port());
    }
}

#[test]
fn exhausted_ports_drop_what_is_new_and_nothing_else() {
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let mut node = node(family);
            let config = node.tables.config.as_mut().unwrap();
            config.snat_last = config.snat_first;
            let only = at(family.node(), *SNAT_PORTS.start());

            let lucky = at(family.client(1), 4000);
            let frame = Frame::first(protocol, lucky, service(family));
            assert_eq!(open(&mut node, HOOK, &frame), Ok(only));

            let unlucky = at(family.client(2), 4000);
            let frame = Frame::first(protocol, unlucky, service(family));
            let dropped = node.see(HOOK, &frame);
            assert_eq!(dropped, (Verdict::Drop, frame.build()));
            assert_eq!(node.count(Reason::PortsExhausted), 1);
            assert_eq!(node.flows.len(), 2);

            let reply = Frame::next(protocol, backend(family), only);
            assert_eq!(answer(&mut node, HOOK, &reply), (service(family), lucky));
        }
    }
}

/// Few probes: the price of a new flow is bounded.
#[test]
fn eight_ports_are_tried() {
    for (taken, expected) in [(7, Ok(())), (8, Err(Verdict::Drop))] {
        let family = Family::V4;
        let mut node = node(family);
        let first = at(family.client(1), 4000);
        node.tables.dice.borrow_mut().extend([0, 0]);
        open(&mut node, HOOK, &Frame::udp(first, service(family))).unwrap();

        let second = at(family.client(2), 4000);
        node.tables.dice.borrow_mut().push_back(0);
        node.tables.dice.borrow_mut().extend([0].repeat(taken));
        node.tables.dice.borrow_mut().push_back(u32::MAX);
        let opened = open(&mut node, HOOK, &Frame::udp(second, service(family)));
        assert_eq!(opened.map(drop), expected, "with {taken} collisions");
    }
}

/// One client socket that talks to two services which share a backend.
#[test]
fn a_client_that_meets_a_backend_by_two_names_is_answered_by_both() {
    let courses = [
        (Hook::XDP_EXTERNAL, Hook::TC_EXTERNAL_EGRESS, true),
        (Hook::XDP_EXTERNAL, Hook::XDP_EXTERNAL, false),
        (Hook::TC_POD_INGRESS, Hook::TC_POD_EGRESS, true),
        (Hook::TC_POD_INGRESS, Hook::TC_POD_EGRESS, false),
    ];
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            for (request_hook, reply_hook, is_local) in courses {
                let mut node = Node::new();
                let backend = backend(family);
                let index = if is_local {
                    node.local(backend)
                } else {
                    node.remote(backend)
                };
                let client = at(family.client(1), 4000);
                let names = [1, 2].map(|number| at(family.service(number), 80));
                let sources = names.map(|name| {
                    node.serve(name, protocol, &[index], &[index]);
                    let frame = Frame::first(protocol, client, name);
                    open(&mut node, request_hook, &frame).unwrap()
                });
                assert_ne!(sources[0], sources[1]);
                for (name, source) in names.into_iter().zip(sources) {
                    let reply = Frame::next(protocol, backend, source);
                    assert_eq!(answer(&mut node, reply_hook, &reply), (name, client));
                }
            }
        }
    }
}

/// The same for a pod that is the backend itself.
#[test]
fn a_pod_that_meets_itself_by_two_names_is_answered_by_both() {
    let hook = Hook::TC_POD_INGRESS;
    for family in Family::BOTH {
        let pod = at(family.local_pod(1), 8080);
        let client = at(pod.ip(), *SNAT_PORTS.start());
        let mut node = Node::new();
        let index = node.local(pod);
        let names = [1, 2].map(|number| at(family.service(number), 80));
        let sources = names.map(|name| {
            node.serve(name, proto::UDP, &[index], &[]);
            open(&mut node, hook, &Frame::udp(client, name)).unwrap()
        });
        assert_ne!(sources[0], sources[1]);
        for (name, source) in names.into_iter().zip(sources) {
            assert_eq!(source.ip(), family.node());
            let reply = Frame::udp(pod, source);
            assert_eq!(answer(&mut node, hook, &reply), (name, client));
        }
    }
}

/// The route's own source address comes before the node's.
#[test]
fn the_source_is_the_routes_or_else_the_nodes() {
    for family in Family::BOTH {
        let preferred = family.client(77);
        for (source, expected) in [(Some(preferred), preferred), (None, family.node())] {
            let mut node = node(family);
            let way = Way { source, ..Way::OUT };
            node.route(backend(family).ip(), way);
            let frame = Frame::udp(at(family.client(1), 4000), service(family));
            assert_eq!(open(&mut node, HOOK, &frame).unwrap().ip(), expected);
        }
    }
}

/// A request of anybody to any service.
#[derive(Clone, Debug)]
struct Request {
    inside: bool,
    client: u16,
    port: u16,
    service: u16,
    proto: u8,
}

fn requests() -> impl Strategy<Value = Request> {
    let first = *SNAT_PORTS.start();
    let ports = sample::select(vec![first, first + 1, 4000]);
    let protocols = sample::select(&PROTOCOLS);
    (any::<bool>(), 1_u16..4, ports, 1_u16..4, protocols).prop_map(
        |(inside, client, port, service, proto)| Request {
            inside,
            client,
            port,
            service,
            proto,
        },
    )
}

/// A flow as its client and as its backend see it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Opened {
    client: SocketAddr,
    service: SocketAddr,
    proto: u8,
    /// Source and destination of what the backend receives.
    tuple: (SocketAddr, SocketAddr),
    /// Where its replies are seen.
    reply_hook: Hook,
}

impl Opened {
    fn new(node: &mut Node, family: Family, request: &Request) -> Option<Self> {
        let (ip, ingress, egress) = if request.inside {
            let hooks = (Hook::TC_POD_INGRESS, Hook::TC_POD_EGRESS);
            (family.local_pod(request.client), hooks.0, hooks.1)
        } else {
            let hooks = (Hook::TC_EXTERNAL_INGRESS, Hook::TC_EXTERNAL_EGRESS);
            (family.client(request.client), hooks.0, hooks.1)
        };
        let client = at(ip, request.port);
        let service = at(family.service(request.service), 80);
        let frame = Frame::first(request.proto, client, service);
        let (verdict, bytes) = node.see(ingress, &frame);
        let reply_hook = match verdict {
            Verdict::Deliver => egress,
            Verdict::Transmit { .. } | Verdict::Reflect => ingress,
            Verdict::Drop => return None,
            other => panic!("{other:?} of a request"),
        };
        Some(Self {
            client,
            service,
            proto: request.proto,
            tuple: wire::addresses(&bytes),
            reply_hook,
        })
    }

    fn is_same_flow(&self, other: &Self) -> bool {
        (self.client, self.service, self.proto) == (other.client, other.service, other.proto)
    }

    fn shares_tuple(&self, other: &Self) -> bool {
        (self.tuple, self.proto) == (other.tuple, other.proto)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Few ports, few clients, shared backends: whoever asks whom, answers find their way back.
    #[test]
    fn no_two_flows_share_a_tuple(
        family in sample::select(&Family::BOTH), requests in vec(requests(), 1..40),
    ) {
        let mut node = Node::new();
        node.tables.config.as_mut().unwrap().snat_last = *SNAT_PORTS.start() + 7;
        let local = node.local(at(family.local_pod(1), 8080));
        let remote = node.remote(backend(family));
        for (number, protocol) in (1..4).flat_map(|number| PROTOCOLS.map(|it| (number, it))) {
            let both = [local, remote];
            node.serve(at(family.service(number), 80), protocol, &both, &both);
        }
        let mut flows = Vec::<Opened>::new();
        for request in requests {
            let Some(opened) = Opened::new(&mut node, family, &request) else {
                continue;
            };
            if let Some(flow) = flows.iter().find(|flow| flow.is_same_flow(&opened)) {
                prop_assert_eq!(flow, &opened);
            } else {
                prop_assert!(!flows.iter().any(|flow| flow.shares_tuple(&opened)));
                flows.push(opened);
            }
        }
        for Opened { client, service, proto, tuple, reply_hook } in flows {
            let reply = Frame::next(proto, tuple.1, tuple.0);
            prop_assert_eq!(answer(&mut node, reply_hook, &reply), (service, client));
        }
    }
}

//! Requests reach a backend and replies come back as if from the service.

use std::net::SocketAddr;

use lb_common::proto;
use lb_ebpf::{Hook, Verdict};
use proptest::prelude::*;

use crate::support::{
    family::{Family, at},
    frame::{Frame, MACS_BACK, Segment},
    layout::{Layout, layouts},
    node::Node,
    packet::HostPacket,
    tables::{EXTERNAL, SNAT_PORTS, macs_toward},
    wire::{self, Headers},
};

/// A way a client and a backend can lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// A client outside, a backend here.
    Local,
    /// A client outside, a backend on another node.
    Remote,
    /// A pod here and any backend.
    Pod,
    /// A pod here that is its own backend.
    Hairpin,
}

/// A course and the hooks that see request and reply.
const COURSES: [(Course, Hook, Hook); 8] = {
    use Hook as H;
    [
        (Course::Local, H::XDP_EXTERNAL, H::TC_EXTERNAL_EGRESS),
        (Course::Local, H::TC_EXTERNAL_INGRESS, H::TC_EXTERNAL_EGRESS),
        (Course::Remote, H::XDP_EXTERNAL, H::XDP_EXTERNAL),
        (Course::Remote, H::XDP_EXTERNAL, H::TC_EXTERNAL_INGRESS),
        (Course::Remote, H::TC_EXTERNAL_INGRESS, H::XDP_EXTERNAL),
        (
            Course::Remote,
            H::TC_EXTERNAL_INGRESS,
            H::TC_EXTERNAL_INGRESS,
        ),
        (Course::Pod, H::TC_POD_INGRESS, H::TC_POD_EGRESS),
        (Course::Hairpin, H::TC_POD_INGRESS, H::TC_POD_INGRESS),
    ]
};

/// A request, its reply, and everything that may vary about them.
#[derive(Clone, Debug)]
struct Exchange {
    family: Family,
    course: (Course, Hook, Hook),
    proto: u8,
    client_port: u16,
    service_port: u16,
    backend_port: u16,
    request: Layout,
    reply: Layout,
    /// Whether hosts leave checksums to their devices.
    partial: bool,
}

fn exchanges() -> impl Strategy<Value = Exchange> {
    let families = prop::sample::select(&Family::BOTH);
    let courses = prop::sample::select(&COURSES);
    let protocols = prop::sample::select(&[proto::TCP, proto::UDP, proto::SCTP]);
    let ports = (1_u16.., 1_u16.., 1_u16..);
    (
        families,
        courses,
        protocols,
        ports,
        layouts(),
        layouts(),
        any::<bool>(),
    )
        .prop_map(
            |(family, course, proto, ports, request, reply, partial)| Exchange {
                family,
                course,
                proto,
                client_port: ports.0,
                service_port: ports.1,
                backend_port: ports.2,
                request,
                reply,
                partial,
            },
        )
}

/// The parties of an exchange.
struct Parties {
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
}

impl Exchange {
    fn parties(&self) -> Parties {
        let family = self.family;
        let (client, backend) = match self.course.0 {
            Course::Local => (family.client(1), family.local_pod(1)),
            Course::Remote => (family.client(1), family.remote_pod(1)),
            Course::Pod => (family.local_pod(2), family.remote_pod(1)),
            Course::Hairpin => (family.local_pod(1), family.local_pod(1)),
        };
        Parties {
            client: at(client, self.client_port),
            service: at(family.service(1), self.service_port),
            backend: at(backend, self.backend_port),
        }
    }

    fn node(&self, parties: &Parties) -> Node {
        let mut node = Node::new();
        let backend = match self.course.0 {
            Course::Local | Course::Hairpin => node.local(parties.backend),
            Course::Remote | Course::Pod => node.remote(parties.backend),
        };
        node.serve(parties.service, self.proto, &[backend], &[backend]);
        node
    }

    fn packet(&self, frame: &Frame) -> HostPacket {
        let has_checksum = frame.segment != Segment::Udp { checksum: false };
        if self.partial && has_checksum {
            HostPacket::with_partial_checksum(frame)
        } else {
            HostPacket::from(frame)
        }
    }

    /// The frame that must come of one whose addresses were translated.
    fn sent_on(&self, frame: Frame) -> (Verdict, Frame) {
        match self.course.0 {
            Course::Local | Course::Pod => (Verdict::Deliver, frame),
            Course::Remote => {
                let macs = macs_toward(frame.dst.ip());
                let ttl = frame.ttl - 1;
                let verdict = Verdict::Transmit { ifindex: EXTERNAL };
                (verdict, Frame { macs, ttl, ..frame })
            }
            Course::Hairpin => {
                let macs = MACS_BACK;
                (Verdict::Reflect, Frame { macs, ..frame })
            }
        }
    }

    /// Whose address the backend must see: its port is checked here.
    fn source(&self, seen: SocketAddr, client: SocketAddr) -> SocketAddr {
        match self.course.0 {
            Course::Local | Course::Pod => client,
            Course::Remote | Course::Hairpin => {
                let kept = SNAT_PORTS.contains(&client.port());
                assert!(SNAT_PORTS.contains(&seen.port()), "{seen}");
                assert!(!kept || seen.port() == client.port(), "{seen}");
                at(self.family.node(), seen.port())
            }
        }
    }
}

/// Runs an exchange, and checks every byte on its way.
fn run(exchange: &Exchange) {
    let (_, request_hook, reply_hook) = exchange.course;
    let parties = exchange.parties();
    let Parties {
        client,
        service,
        backend,
    } = parties;
    let mut node = exchange.node(&parties);

    let request = exchange
        .request
        .apply(Frame::first(exchange.proto, client, service));
    let (verdict, arrived) = node.see(request_hook, exchange.packet(&request));
    let src = exchange.source(wire::source(&arrived), client);
    let expected = exchange.sent_on(Frame {
        src,
        dst: backend,
        ..request
    });
    assert_eq!(verdict, expected.0);
    wire::assert_same(&arrived, &expected.1.build());
    assert_eq!(node.flows.len(), 2, "a row for either direction");

    let again = exchange
        .request
        .apply(Frame::next(exchange.proto, client, service));
    let (verdict, arrived) = node.see(request_hook, exchange.packet(&again));
    let expected = exchange.sent_on(Frame {
        src,
        dst: backend,
        ..again
    });
    assert_eq!(verdict, expected.0);
    wire::assert_same(&arrived, &expected.1.build());

    let reply = exchange
        .reply
        .apply(Frame::next(exchange.proto, backend, src));
    let (verdict, returned) = node.see(reply_hook, exchange.packet(&reply));
    let expected = exchange.sent_on(Frame {
        src: service,
        dst: client,
        ..reply
    });
    assert_eq!(verdict, expected.0);
    wire::assert_same(&returned, &expected.1.build());
    assert_eq!(node.flows.len(), 2);
    assert_eq!(node.counters(1).packets, 3);
    assert_eq!(node.counters(1).flows, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Translation there and back is the identity; each packet on the way equals, byte by byte,
    /// the one a host with the new addresses would have sent.
    #[test]
    fn a_reply_undoes_what_was_done_to_its_request(exchange in exchanges()) {
        run(&exchange);
    }
}

/// A datagram whose new checksum comes out as zero carries the other form of it: zero would say
/// that there is none (RFC 768).
#[test]
fn a_udp_checksum_never_becomes_none() {
    for family in Family::BOTH {
        let client = at(family.client(1), 4000);
        let service = at(family.service(1), 80);
        let backend = at(family.local_pod(1), 8080);
        let mut node = Node::new();
        let index = node.local(backend);
        node.serve(service, proto::UDP, &[], &[index]);

        let sent = |dst, payload: &[u8]| {
            let mut frame = Frame::udp(client, dst);
            frame.payload = payload.to_vec();
            frame.build()
        };
        let checksum = |bytes: &[u8]| {
            let field = Headers::find(bytes).unwrap().checksum_field().unwrap();
            [bytes[field], bytes[field + 1]]
        };
        // A sum and its complement add up to zero.
        let payload = checksum(&sent(backend, &[0; 2]));
        let (_, arrived) = node.see(Hook::XDP_EXTERNAL, HostPacket::new(sent(service, &payload)));
        assert_eq!(checksum(&arrived), [0xff; 2]);
        assert_eq!(arrived, sent(backend, &payload));
    }
}

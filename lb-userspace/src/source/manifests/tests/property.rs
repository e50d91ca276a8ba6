//! However the files came to be what they are, what is in force is what they say.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::cluster;
use crate::{
    model::{Batch, Change, EndpointSlice, Node, ObjectName, Service},
    source::manifests::{ControlPlane, FileChange, Memory, Update},
};

/// What a receiver of all batches has.
#[derive(Debug, Default, PartialEq)]
struct Received {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    node: Option<Node>,
}

impl Received {
    /// Takes a batch; every change in it must change something.
    fn take(&mut self, batch: Batch) {
        for change in batch.changes {
            match change {
                Change::Service(name, service) => set(&mut self.services, name, service),
                Change::Slice(name, slice) => set(&mut self.slices, name, slice),
                Change::Node(node) => {
                    assert_ne!(self.node, node);
                    self.node = node;
                }
                Change::Pod(name, _) => panic!("Pod {name} asks for nothing"),
                Change::ServiceNetworks(networks) => panic!("networks {networks:?} from manifests"),
            }
        }
    }
}

fn set<T: Clone + std::fmt::Debug + PartialEq>(
    objects: &mut BTreeMap<ObjectName, T>,
    name: ObjectName,
    object: Option<T>,
) {
    assert_ne!(
        objects.get(&name),
        object.as_ref(),
        "{name} is sent unchanged"
    );
    match object {
        Some(object) => objects.insert(name, object),
        None => objects.remove(&name),
    };
}

/// A document; names and labels are few, so that they meet.
fn document() -> impl Strategy<Value = String> {
    let service = (0..4, 0..3_usize, 0..3, 80..83).prop_map(|(n, kind, label, port)| {
        let kind = ["ClusterIP", "NodePort", "ExternalName"][kind];
        let (ip, name) = match kind {
            "ExternalName" => (String::new(), "externalName: x.example"),
            _ => (format!("clusterIP: 10.96.0.{}", n + 1), ""),
        };
        let node_port = match kind {
            "NodePort" => format!(", nodePort: {}", 30_000 + n),
            _ => String::new(),
        };
        format!(
            "kind: Service\napiVersion: v1\nmetadata: {{name: s{n}}}\nspec:\n  type: {kind}\n  {ip}\n  \
             {name}\n  selector: {{app: l{label}}}\n  ports: [{{port: {port}{node_port}}}]\n"
        )
    });
    let pod = (0..8, 0..3, any::<bool>()).prop_map(|(n, label, ready)| {
        let ready = if ready { "True" } else { "False" };
        format!(
            "kind: Pod\napiVersion: v1\nmetadata: {{name: p{n}, labels: {{app: l{label}}}}}\n\
             status: {{podIP: 10.0.0.{n}, conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
    });
    let slice = (0..4, 0..4, 1..20).prop_map(|(n, service, addr)| {
        format!(
            "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {{name: e{n}, labels: \
             {{kubernetes.io/service-name: s{service}}}}}\naddressType: IPv4\n\
             ports: [{{port: 80}}]\nendpoints: [{{addresses: [10.1.0.{addr}]}}]\n"
        )
    });
    let node = (1..4).prop_map(|addr| {
        format!(
            "kind: Node\napiVersion: v1\nmetadata: {{name: n1}}\n\
             status: {{addresses: [{{type: InternalIP, address: 192.0.2.{addr}}}]}}\n"
        )
    });
    prop_oneof![3 => service, 5 => pod, 2 => slice, 1 => node]
}

fn change() -> impl Strategy<Value = FileChange> {
    let content = prop::collection::vec(document(), 0..6)
        .prop_map(|documents| FileChange::Content(documents.join("---\n").into_bytes()));
    prop_oneof![6 => content, 1 => Just(FileChange::Gone)]
}

fn updates() -> impl Strategy<Value = Vec<BTreeMap<String, FileChange>>> {
    let update = prop::collection::btree_map("[abc]\\.yaml", change(), 1..3);
    prop::collection::vec(update, 1..12)
}

fn update(files: BTreeMap<String, FileChange>) -> Update {
    Update {
        files,
        problems: Vec::new(),
    }
}

proptest! {
    #[test]
    fn changes_add_up_to_the_whole(updates in updates()) {
        let (mut files, mut received) = (BTreeMap::new(), Received::default());
        let mut control_plane = ControlPlane::new(cluster(), Memory::default());
        for changed in updates {
            files.extend(changed.clone());
            received.take(control_plane.apply(update(changed)));
        }
        let mut fresh = Received::default();
        fresh.take(ControlPlane::new(cluster(), Memory::default()).apply(update(files)));
        prop_assert_eq!(received, fresh);
    }
}

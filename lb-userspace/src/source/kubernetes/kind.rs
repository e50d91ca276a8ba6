//! The kinds of objects that are watched, and which of them.

use std::fmt;

use kube::core::params::{ListParams, WatchParams};

/// Services with this label belong to another proxy (row A1).
const OTHER_PROXY: &str = "!service.kubernetes.io/service-proxy-name";

/// Slices with this label are of headless Services (row A2).
const NOT_HEADLESS: &str = "!service.kubernetes.io/headless";

/// Headless Services are nobody's to proxy (row A3).
const WITH_CLUSTER_IP: &str = "spec.clusterIP!=None";

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Services
    Service,
    /// EndpointSlices
    EndpointSlice,
    /// Our own Node
    Node,
    /// `ServiceCIDRs`
    ServiceCidr,
    /// Pods of our own Node
    Pod,
}

impl Kind {
    /// Those that are always watched.
    pub(super) const ALWAYS: [Self; 4] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::ServiceCidr,
    ];

    /// Where the API server keeps them.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Service => "/api/v1/services",
            Self::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Node => "/api/v1/nodes",
            Self::Pod => "/api/v1/pods",
            Self::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    /// The plural in which the API and its access rules name them.
    pub(super) const fn resource(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Node => "nodes",
            Self::ServiceCidr => "servicecidrs",
            Self::Pod => "pods",
        }
    }

    /// Whether nothing can be programmed without them. The others are waited for as long as there
    /// is hope.
    pub(super) const fn is_vital(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice => true,
            Self::Node | Self::ServiceCidr | Self::Pod => false,
        }
    }

    /// What is done without them, for people.
    pub(super) const fn consequence(self) -> &'static str {
        match self {
            Self::Service | Self::EndpointSlice => "what is in force stays",
            Self::Node => "the node's addresses and zone stay as they are known",
            Self::ServiceCidr => "addresses of no Service are dropped only as far as known",
            Self::Pod => "pods are left to tc by their annotations only as far as known",
        }
    }

    /// Label and field selector.
    fn selectors(self, node_name: &str) -> (Option<String>, Option<String>) {
        let text = |selector: &str| Some(selector.to_owned());
        match self {
            Self::Service => (text(OTHER_PROXY), text(WITH_CLUSTER_IP)),
            Self::EndpointSlice => (text(NOT_HEADLESS), None),
            Self::Node => (None, Some(format!("metadata.name={node_name}"))),
            Self::ServiceCidr => (None, None),
            Self::Pod => (None, Some(format!("spec.nodeName={node_name}"))),
        }
    }

    /// Parameters of a list by pages.
    pub(super) fn list(self, node_name: &str) -> ListParams {
        let (label_selector, field_selector) = self.selectors(node_name);
        ListParams {
            label_selector,
            field_selector,
            ..ListParams::default()
        }
    }

    /// Parameters of a watch.
    pub(super) fn watch(self, node_name: &str) -> WatchParams {
        let (label_selector, field_selector) = self.selectors(node_name);
        WatchParams {
            label_selector,
            field_selector,
            ..WatchParams::default()
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Pod => "Pod",
        })
    }
}

//! The families and cluster IPs that a Service asks for: `clusterIP`, `clusterIPs`, `ipFamilies`
//! and `ipFamilyPolicy`, which the API server makes agree with each other.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;

use super::{
    assign::cluster_ip_field,
    check::{self, At, Invalid},
    object::{Family, VirtualIp},
    ranges::ClusterRanges,
};
use crate::model::ServiceType;

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// One with a cluster IP, unless headless.
    Virtual(ServiceType),
    ExternalName,
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Single,
    PreferDual,
    RequireDual,
}

/// What cluster IPs the Service is to have; none if it is of a type that programs nothing.
pub(super) fn virtual_ip(
    spec: &ServiceSpec,
    kind: Type,
    ranges: &ClusterRanges,
) -> Result<Option<VirtualIp>, Invalid> {
    let given = cluster_ips(spec)?;
    let kind = match kind {
        Type::Virtual(kind) => kind,
        Type::ExternalName if given.is_empty() => return Ok(None),
        Type::ExternalName => {
            let reason = "not with type ExternalName";
            return Err(Invalid::new("spec.clusterIP", reason));
        }
    };
    let families = ip_families(spec, ranges)?;
    let policy = policy(spec)?;
    if given == ["None"] {
        return match kind {
            ServiceType::ClusterIP => Ok(None),
            ServiceType::NodePort | ServiceType::LoadBalancer => Err(Invalid::new(
                "spec.clusterIP",
                "None only with type ClusterIP",
            )),
        };
    }
    let explicit = explicit(&given, ranges)?;
    let families = resolve(&explicit, families, policy, ranges)?;
    Ok(Some(VirtualIp {
        kind,
        families,
        explicit,
    }))
}

/// `clusterIPs`, which `clusterIP` stands for when it is alone.
fn cluster_ips(spec: &ServiceSpec) -> Result<Vec<&str>, Invalid> {
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    match all.first() {
        None if first.is_empty() => Ok(Vec::new()),
        None => Ok(vec![first]),
        Some(_) if first.is_empty() => Err(Invalid::new(
            "spec.clusterIPs",
            "must be empty when clusterIP is not set",
        )),
        Some(other) if other != first => Err(Invalid::new(
            "spec.clusterIPs[0]",
            format_args!("{other:?} is not clusterIP, {first:?}"),
        )),
        Some(_) if all.len() > 2 => Err(Invalid::new("spec.clusterIPs", "at most two")),
        Some(_) => Ok(all.iter().map(String::as_str).collect()),
    }
}

fn explicit(given: &[&str], ranges: &ClusterRanges) -> Result<Vec<IpAddr>, Invalid> {
    let mut explicit = Vec::with_capacity(given.len());
    for (index, text) in given.iter().enumerate() {
        let field = cluster_ip_field(index);
        let ip = check::routable_ip(text).at(&field)?;
        ranges.check(ip).at(&field)?;
        if explicit
            .iter()
            .any(|other| Family::of(*other) == Family::of(ip))
        {
            let reason = format_args!("a second {} address", Family::of(ip));
            return Err(Invalid::new(field, reason));
        }
        explicit.push(ip);
    }
    Ok(explicit)
}

fn ip_families(spec: &ServiceSpec, ranges: &ClusterRanges) -> Result<Vec<Family>, Invalid> {
    let mut families = Vec::new();
    for (index, name) in spec.ip_families.iter().flatten().enumerate() {
        let field = format_args!("spec.ipFamilies[{index}]");
        let family = match name.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                let reason = format_args!("{other:?} is not one of IPv4, IPv6");
                return Err(Invalid::new(field, reason));
            }
        };
        if families.contains(&family) {
            return Err(Invalid::new(field, format_args!("{family} is given twice")));
        }
        let configured = ranges.families();
        if !configured.is_empty() && !configured.contains(&family) {
            let reason = format_args!("no Service cluster IP range is {family}");
            return Err(Invalid::new(field, reason));
        }
        families.push(family);
    }
    Ok(families)
}

fn policy(spec: &ServiceSpec) -> Result<Policy, Invalid> {
    match spec.ip_family_policy.as_deref() {
        None | Some("" | "SingleStack") => Ok(Policy::Single),
        Some("PreferDualStack") => Ok(Policy::PreferDual),
        Some("RequireDualStack") => Ok(Policy::RequireDual),
        Some(other) => Err(Invalid::new(
            "spec.ipFamilyPolicy",
            format_args!("{other:?} is not one of SingleStack, PreferDualStack, RequireDualStack"),
        )),
    }
}

/// Brings cluster IPs, families and policy together; the families of the result start with those
/// of `explicit`.
fn resolve(
    explicit: &[IpAddr],
    mut families: Vec<Family>,
    policy: Policy,
    ranges: &ClusterRanges,
) -> Result<Vec<Family>, Invalid> {
    if policy == Policy::Single && (explicit.len() > 1 || families.len() > 1) {
        return Err(Invalid::new(
            "spec.ipFamilyPolicy",
            "must be PreferDualStack or RequireDualStack with several clusterIPs or ipFamilies",
        ));
    }
    for (index, ip) in explicit.iter().enumerate() {
        match families.get(index) {
            None => families.push(Family::of(*ip)),
            Some(family) if *family == Family::of(*ip) => {}
            Some(family) => {
                let field = cluster_ip_field(index);
                let reason = format_args!("{ip} is not {family}, as ipFamilies[{index}] says");
                return Err(Invalid::new(field, reason));
            }
        }
    }
    let configured = ranges.families();
    if families.is_empty() {
        families.extend(configured.first());
    }
    let wanted = match policy {
        Policy::Single => 1,
        Policy::PreferDual | Policy::RequireDual => 2,
    };
    for family in configured {
        if families.len() < wanted && !families.contains(&family) {
            families.push(family);
        }
    }
    if policy == Policy::RequireDual && families.len() < 2 {
        return Err(Invalid::new(
            "spec.ipFamilyPolicy",
            "RequireDualStack needs a Service cluster IP range of each family",
        ));
    }
    if families.is_empty() {
        let reason = "required without a Service cluster IP range to allocate from";
        return Err(Invalid::new("spec.clusterIP", reason));
    }
    Ok(families)
}

//! Where Kubernetes objects come from.

mod check;
pub mod kubernetes;
pub mod manifests;
#[cfg(test)]
mod render;

//! Where Kubernetes objects come from.

mod annotations;
mod check;
pub mod kubernetes;
pub mod manifests;
#[cfg(test)]
mod render;

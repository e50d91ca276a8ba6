//! The pipeline as a specification: what becomes of packets, on the host, without a kernel.

#[cfg(test)]
mod support;
#[cfg(test)]
mod translation;

//! The pipeline as a specification: what becomes of packets, on the host, without a kernel.

#[cfg(test)]
mod any_packet;
#[cfg(test)]
mod choice;
#[cfg(test)]
mod forwarding;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod lifetime;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod reasons;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rejects;
#[cfg(test)]
mod support;
#[cfg(test)]
mod translation;

//! The control plane on maps in memory: objects in, maps out.

#[cfg(test)]
mod algorithm;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod departures;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod show;
#[cfg(test)]
mod tables;

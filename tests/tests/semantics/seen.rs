//! What the nodes tell: maps, metrics, problems, Events.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use lb_userspace::pins::Pins;
use serde_json::Value;
use tests::{
    cluster::{NODES, eventually},
    kube::ADDRESS,
    talk::patience,
};

use crate::world::{SOON, World};

/// Where an agent exposes its metrics, on its node.
const METRICS: &str = "127.0.0.1:10249";

impl World {
    /// What a path answers `from` a namespace over HTTP: status and body.
    pub(crate) fn get(&self, from: &str, at: &str, path: &str) -> Result<(u16, String)> {
        let (head, body) = self.exchange(from, at, path)?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body))
    }

    /// The same: head and body as they come.
    pub(crate) fn exchange(&self, from: &str, at: &str, path: &str) -> Result<(String, String)> {
        let to: SocketAddr = at.parse().with_context(|| format!("{at} is no address"))?;
        let answer = self
            .cluster
            .netns(from)?
            .run(|| -> Result<String> {
                let mut stream = TcpStream::connect_timeout(&to, patience())?;
                stream.set_read_timeout(Some(patience()))?;
                write!(stream, "GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            })?
            .with_context(|| format!("{from} asked {at} for {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        Ok((head.to_owned(), body.to_owned()))
    }

    /// A metric that counts, of a node's agent, by name and labels as exposed; 0 where there is none.
    pub(crate) fn metric(&self, node: &str, name: &str) -> Result<u64> {
        let (_, text) = self.get(node, METRICS, "/metrics")?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let whole = value.and_then(|value| value.split('.').next());
        whole.map_or(Ok(0), |value| Ok(value.parse()?))
    }

    /// How many requests of a node's agent the API server has answered so, or not at all (`<error>`).
    pub(crate) fn requests(&self, node: &str, code: &str, method: &str) -> Result<u64> {
        let labels = format!("code=\"{code}\",method=\"{method}\",host=\"{ADDRESS}\"");
        self.metric(node, &format!("rest_client_requests_total{{{labels}}}"))
    }

    /// The frontends of a node that lead to a port, by names like `10.96.1.1:80/TCP`.
    pub(crate) fn frontends(&self, node: &str) -> Result<BTreeMap<String, Value>> {
        let mut shown = self.lbctl(node, &["maps", "dump", "frontends"])?;
        let rows: Vec<Value> = serde_json::from_value(shown["frontends"].take())?;
        let mut frontends = BTreeMap::new();
        for row in rows.into_iter().filter(|row| row["wholeAddress"] == false) {
            let address = row["address"].as_str().context("no address")?.parse()?;
            let port = u16::try_from(row["port"].as_u64().context("no port")?)?;
            let protocol = row["protocol"].as_str().context("no protocol")?;
            let name = format!("{}/{protocol}", SocketAddr::new(address, port));
            frontends.insert(name, row);
        }
        Ok(frontends)
    }

    /// Soon both nodes have each of these frontends.
    pub(crate) fn programmed(&self, frontends: &[&str]) -> Result<()> {
        let everywhere = |node: &&str| self.programmed_on(node, frontends);
        NODES.iter().try_for_each(everywhere)
    }

    /// Soon a node has each of these frontends.
    pub(crate) fn programmed_on(&self, node: &str, frontends: &[&str]) -> Result<()> {
        eventually(SOON, || {
            let present = self.frontends(node)?;
            let missing = frontends.iter().find(|name| !present.contains_key(**name));
            ensure!(missing.is_none(), "{node} lacks {missing:?} in {present:?}");
            Ok(())
        })
    }

    /// Soon no node has any of these frontends; what is to be in force is by [`World::settled`].
    pub(crate) fn absent(&self, frontends: &[&str]) -> Result<()> {
        let nowhere = |node: &&str| self.absent_on(node, frontends);
        NODES.iter().try_for_each(nowhere)
    }

    /// Soon a node has none of these frontends.
    pub(crate) fn absent_on(&self, node: &str, frontends: &[&str]) -> Result<()> {
        eventually(SOON, || {
            let present = self.frontends(node)?;
            let there = frontends.iter().find(|name| present.contains_key(**name));
            ensure!(there.is_none(), "{node} has {there:?}");
            Ok(())
        })
    }

    /// The backends a node leads clients inside to at a frontend, in the order of its slots.
    pub(crate) fn backends(&self, node: &str, frontend: &str) -> Result<Vec<String>> {
        let frontends = self.frontends(node)?;
        let row = frontends.get(frontend);
        let row = row.with_context(|| format!("{node} has no {frontend}"))?;
        let backends = row["inside"]["backends"].as_array();
        let text = |backend: &Value| {
            let address = backend["address"].as_str().unwrap_or("?");
            format!("{address}:{}", backend["port"])
        };
        Ok(backends.context("no backends")?.iter().map(text).collect())
    }

    /// Waits until all that was applied before is in force on both nodes, that which programs
    /// nothing included: a Service and a slice that come after it are.
    pub(crate) fn settled(&mut self) -> Result<()> {
        self.markers += 1;
        let port = 20_000 + self.markers;
        let (frontend, backend) = (
            format!("10.96.200.1:{port}/TCP"),
            format!("10.1.1.1:{port}"),
        );
        self.given(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: marker}},
               spec: {{clusterIP: 10.96.200.1, ports: [{{port: {port}}}]}}}}"
        ))?;
        // One after the other, so that a marker always takes as many operations.
        self.programmed(&[&frontend])?;
        self.given(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
               metadata: {{name: marker, labels: {{kubernetes.io/service-name: marker}}}},
               ports: [{{port: {port}}}], endpoints: [{{addresses: [10.1.1.1]}}]}}"
        ))?;
        for node in NODES {
            eventually(SOON, || {
                let backends = self.backends(node, &frontend)?;
                ensure!(backends == [backend.clone()], "{node} has {backends:?}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// How many operations on the maps of node-a a change takes, with what [`World::settled`] does.
    pub(crate) fn operations(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<u64> {
        const OPERATIONS: &str = "fairlead_map_operations_total";
        self.settled()?;
        let before = self.metric("node-a", OPERATIONS)?;
        change(self)?;
        self.settled()?;
        Ok(self.metric("node-a", OPERATIONS)? - before)
    }

    /// Soon `lbctl status` on a node shows a problem with all of these words.
    pub(crate) fn problem(&self, node: &str, words: &[&str]) -> Result<()> {
        eventually(SOON, || {
            let status = self.status(node)?;
            let problems = status["problems"].as_array().context("no problems")?;
            let fits = |line: &Value| {
                let line = line.as_str().unwrap_or_default();
                words.iter().all(|word| line.contains(word))
            };
            ensure!(problems.iter().any(fits), "no {words:?} in {problems:?}");
            Ok(())
        })
    }

    /// What an agent says of itself in the maps.
    pub(crate) fn status(&self, node: &str) -> Result<Value> {
        let mut shown = self.lbctl(node, &["maps", "dump", "status"])?;
        Ok(shown["status"].take())
    }

    /// A node's map of rows by keys, for what `lbctl` does not show.
    pub(crate) fn map<K: Pod, V: Pod>(
        &self,
        node: &str,
        name: &str,
    ) -> Result<HashMap<MapData, K, V>> {
        let pins = Pins::new(&self.cluster.topology.node(node)?.bpffs());
        Ok(HashMap::try_from(Map::from_map_data(pins.open(name)?)?)?)
    }

    /// Soon there is an Event of this reason on an object, and its note has the words.
    pub(crate) fn event(&self, reason: &str, on: &str, words: &str) -> Result<()> {
        let args = ["get", "events", "--all-namespaces", "-o", "json"];
        eventually(SOON, || {
            let text = self.cluster.source.control.kubectl(&args, "")?;
            let list: Value = serde_json::from_str(&text)?;
            let events = list["items"].as_array().context("no list")?;
            let fits = |event: &&Value| {
                let note = event["message"].as_str().unwrap_or_default();
                let name = &event["involvedObject"]["name"];
                event["reason"] == reason && *name == on && note.contains(words)
            };
            let found = events.iter().find(fits);
            let told: Vec<_> = events.iter().map(|event| &event["message"]).collect();
            ensure!(found.is_some(), "no {reason} on {on} in {told:?}");
            Ok(())
        })
    }
}

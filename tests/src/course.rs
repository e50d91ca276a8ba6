//! What suites ask along every path: who asks what, who has to answer, and whom the answerer has to see.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::{Cluster, Source, Target},
    echo::{Answer, Protocol},
    talk::Conversation,
    topology::Family,
};

/// How often a flow asks: the first packets of it, and some of the established flow.
const QUESTIONS: usize = 4;

/// A path through Fairlead, and what is to be seen at its ends.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// For the names of checks.
    pub name: &'static str,
    /// The client, a node or a pod.
    pub from: &'static str,
    /// The service.
    pub to: Target,
    /// The pod that has to answer.
    pub answers: &'static str,
    /// Whose address that pod has to see: the client, a node or a pod.
    pub sees: &'static str,
}

impl Course {
    /// A flow of this course, on which nothing has been asked yet.
    pub fn open<S: Source>(
        self,
        cluster: &Cluster<S>,
        family: Family,
        protocol: Protocol,
    ) -> Result<Conversation> {
        let (netns, to) = (cluster.netns(self.from)?, self.to.of(family)?);
        let opened = match protocol {
            Protocol::Sctp => {
                let from = cluster.address(self.from, family)?;
                Conversation::associate(netns, to, from)
            }
            Protocol::Tcp | Protocol::Udp => Conversation::open(netns, protocol, to, 0),
        };
        opened.with_context(|| format!("{} cannot open {protocol:?} to {to}", self.from))
    }

    /// Asks on a flow of this course several times, and judges each answer.
    pub fn ask(self, flow: &mut Conversation, sees: IpAddr) -> Result<()> {
        for question in 1..=QUESTIONS {
            let answer = flow.ask().with_context(|| format!("question {question}"))?;
            self.judge(&answer, sees)?;
        }
        Ok(())
    }

    /// Whether the right pod answered and saw this address.
    pub fn judge(self, answer: &Answer, sees: IpAddr) -> Result<()> {
        let Self { answers, .. } = self;
        ensure!(
            answer.server == answers,
            "{} answered instead of {answers}",
            answer.server
        );
        let client = answer.client.ip();
        ensure!(
            client == sees,
            "{answers} saw the client as {client} instead of {sees}"
        );
        Ok(())
    }
}

//! The health check ports of Services, asked over real sockets on loopback.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{ask, free_port, local, local6, options, shown, start, status, try_ask, until};
use crate::{
    agent::serve::{
        Servers,
        checks::{HealthChecks, Listen},
    },
    control::{ByFamily, HealthCheck},
    model::ObjectName,
    source::kubernetes::Event,
};

/// Health check ports by the name of their Service, with the endpoints in IPv4 and IPv6, on these
/// addresses.
pub(super) fn checks(
    services: &[(&str, u16, Option<usize>, Option<usize>)],
    on: &[SocketAddr],
) -> HealthChecks {
    let check = |(name, port, v4, v6): &(&str, u16, _, _)| {
        let check = HealthCheck {
            port: *port,
            local_endpoints: ByFamily { v4: *v4, v6: *v6 },
        };
        (ObjectName::new("shop", *name), check)
    };
    let listen = Listen::On(on.iter().map(SocketAddr::ip).collect());
    HealthChecks {
        services: services.iter().map(check).collect(),
        listen: ByFamily {
            v4: listen.clone(),
            v6: listen,
        },
    }
}

/// These health check ports are to be.
pub(super) fn want(servers: &Servers, checks: &HealthChecks) {
    servers.health_checks(&checks.services, checks.listen.clone());
}

#[tokio::test]
async fn h1_h8_health_check_ports_come_and_go_with_their_services() {
    let (a, b) = (free_port(), free_port());
    let on = [local(0), local6(0)];
    let (servers, ..) = start(options());
    let mut told = Vec::new();
    let mut tell = async |what: &str| {
        told.push(what.to_owned());
        for (name, at) in [
            ("a v4", local(a)),
            ("a v6", local6(a)),
            ("b v4", local(b)),
            ("b v6", local6(b)),
        ] {
            let answer = try_ask(at, "GET /any/path").await;
            let answer = answer.map_or("refused".to_owned(), |answer| {
                let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
                let body: String = body.split_whitespace().collect();
                format!("{} {body}", status(&answer))
            });
            told.push(format!("    {name}: {answer}"));
        }
    };
    let settled = async |open: usize, failed: usize| {
        let counts = || {
            let exposed = servers.shared.metrics.exposition().text;
            let count = |state: &str| {
                let start = format!("fairlead_health_check_servers{{state=\"{state}\"}} ");
                let line = exposed.lines().find_map(|line| line.strip_prefix(&start));
                line.and_then(|count| count.parse::<usize>().ok())
            };
            (count("open"), count("failed"))
        };
        until(async || (counts() == (Some(open), Some(failed))).then_some(())).await;
    };
    want(&servers, &checks(&[("web", a, Some(2), Some(0))], &on));
    settled(2, 0).await;
    tell("one Service, endpoints in IPv4 alone").await;
    want(
        &servers,
        &checks(&[("web", b, Some(1), None), ("api", a, Some(1), None)], &on),
    );
    settled(2, 0).await;
    let moved = async || {
        let answer = ask(local(b), "GET /").await;
        answer.contains("web").then_some(())
    };
    until(moved).await;
    tell("its port moves, another Service takes the old one, IPv6 is gone").await;
    want(&servers, &HealthChecks::default());
    settled(0, 0).await;
    tell("all gone").await;
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn h5_h6_the_whole_answer() {
    let port = free_port();
    let (servers, ..) = start(options());
    want(
        &servers,
        &checks(&[("web", port, Some(2), None)], &[local(0)]),
    );
    let answers = [
        ask(local(port), "GET /").await,
        ask(local(port), "HEAD /x").await,
    ];
    insta::assert_snapshot!(answers.map(|answer| shown(&answer)).join("\n---\n"));
}

#[tokio::test]
async fn h9_a_port_that_is_taken_is_an_event_and_is_tried_again_at_the_next_sync() {
    let port = free_port();
    let other = TcpListener::bind(local6(port)).await.unwrap();
    let (servers, _, notices) = start(options());
    let on = [local(0), local6(0)];
    let wanted = checks(&[("web", port, Some(1), Some(1))], &on);
    want(&servers, &wanted);
    let problem = until(async || servers.problems().pop_first()).await;
    let notice = notices.lock().unwrap()[0].clone();
    assert_eq!(
        notice,
        Event::health_check_failed(&ObjectName::new("shop", "web"), problem.clone())
    );
    let shown = problem.replace(&port.to_string(), "PORT");
    insta::assert_snapshot!(shown);
    drop(other);
    want(&servers, &wanted);
    until(async || servers.problems().is_empty().then_some(())).await;
    let answer = ask(local6(port), "GET /").await;
    assert_eq!(status(&answer), "HTTP/1.1 200 OK");
    assert_eq!(notices.lock().unwrap().len(), 1, "told once");
}

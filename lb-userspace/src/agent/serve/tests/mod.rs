//! The servers, asked over real sockets on loopback.

mod checks;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};

use self::checks::{checks, want};
use super::{door::CONNECTIONS, *};
use crate::model::Node;

/// Longer than anything may take.
const LONG: Duration = Duration::from_secs(20);

type Notices = Arc<Mutex<Vec<Event>>>;

fn options() -> Options {
    Options {
        healthz: None,
        metrics: None,
        hard_fail: false,
        patience: Duration::from_secs(60),
        node_name: "node-a".into(),
        configz: json!({"kubeproxy.config.k8s.io": {"mode": ""}}),
        flags: vec![("--node-name".into(), "node-a".into())],
        requests: Requests::default(),
    }
}

fn start(options: Options) -> (Servers, mpsc::Receiver<ServeError>, Notices) {
    let notices = Notices::default();
    let told = Arc::clone(&notices);
    let notify = Box::new(move |notice| {
        told.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(notice);
    });
    let pins = Pins::new(Path::new("/nonexistent"));
    let (servers, failures) = Servers::start(options, &pins, notify).unwrap();
    (servers, failures, notices)
}

/// A port that nobody has, and that stays free while others take ports the kernel chooses: below
/// the ephemeral range.
fn free_port() -> u16 {
    for port in 21_000..32_000 {
        let number = port + (std::process::id() % 997) as u16;
        let v4 = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, number));
        let v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, number));
        if v4.is_ok() && v6.is_ok() && TAKEN.lock().unwrap().insert(number) {
            return number;
        }
    }
    panic!("no free port");
}

/// Ports that tests of this process have got.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const fn local6(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), port)
}

async fn try_ask(at: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    let head = format!("{request} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The answer, once there is one.
async fn ask(at: SocketAddr, request: &str) -> String {
    until(async || try_ask(at, request).await.ok()).await
}

async fn until<T>(what: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(is) = what().await {
                return is;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, wait).await.expect("in time")
}

/// An answer without what differs from time to time.
fn shown(answer: &str) -> String {
    let lines = answer.split("\r\n");
    let lines = lines.filter(|line| !line.starts_with("Date: "));
    lines.collect::<Vec<_>>().join("\n")
}

fn status(answer: &str) -> &str {
    answer.split("\r\n").next().unwrap_or_default()
}

fn node(eligible: Option<bool>) -> Batch {
    let node = eligible.map(|eligible| Node {
        eligible,
        ..Node::default()
    });
    Batch {
        changes: vec![Change::Node(node)],
        ..Batch::default()
    }
}

const IN_FORCE: Pass = Pass {
    in_force: ByFamily { v4: true, v6: true },
    duration: Duration::from_millis(1),
    full: true,
    operations: 0,
    failures: 0,
};

#[tokio::test]
async fn i3_i4_i6_health_follows_the_node() {
    let at = local(free_port());
    let (servers, ..) = start(Options {
        healthz: Some(Bind::One(at)),
        ..options()
    });
    let mut told = Vec::new();
    for eligible in [None, Some(true), Some(false), Some(true)] {
        servers.queued(&node(eligible), Moment::now());
        servers.applied(&IN_FORCE, Moment::now());
        let (healthz, livez) = (ask(at, "GET /healthz").await, ask(at, "GET /livez").await);
        told.push(format!(
            "{eligible:?}: healthz {}, livez {}",
            status(&healthz),
            status(&livez)
        ));
    }
    let exposed = servers.shared.metrics.exposition().text;
    let counts = exposed
        .lines()
        .filter(|l| l.starts_with("kubeproxy_proxy_"));
    told.extend(counts.map(str::to_owned));
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn i1_only_two_paths_are_health() {
    let at = local(free_port());
    let (_servers, ..) = start(Options {
        healthz: Some(Bind::One(at)),
        ..options()
    });
    let mut told = Vec::new();
    for request in ["GET /", "GET /healthz/", "POST /livez", "HEAD /healthz"] {
        let answer = ask(at, request).await;
        let ends = answer.ends_with("\r\n\r\n");
        told.push(format!("{request}: {}, no body {ends}", status(&answer)));
    }
    told.push(shown(&ask(at, "GET /metrics").await));
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn i7_what_the_metrics_server_says_on_each_path() {
    let at = local(free_port());
    let (servers, ..) = start(Options {
        metrics: Some(Bind::One(at)),
        ..options()
    });
    let mut told = Vec::new();
    for request in [
        "GET /healthz",
        "GET /healthz?verbose",
        "GET /healthz/ping",
        "GET /proxyMode",
        "GET /configz",
        "GET /flagz",
        "GET /metrics/slis",
        "DELETE /metrics/slis",
        "GET /metrics/slis",
        "GET /livez",
        "GET /debug/pprof/",
    ] {
        told.push(format!("> {request}\n{}", shown(&ask(at, request).await)));
    }
    insta::assert_snapshot!(told.join("\n"));
    let statusz = ask(at, "GET /statusz").await;
    assert!(statusz.contains("\nVersion: "), "{statusz}");

    let metrics = ask(at, "GET /metrics").await;
    let head = metrics.split("\r\n\r\n").next().unwrap();
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.contains("\nfairlead_build_info{version="));
    // There are no maps to read: all else is told, and why this is not.
    assert!(!metrics.contains("fairlead_packets_total{"));
    let problems: Vec<_> = servers.problems().into_iter().collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("/metrics: "), "{problems:?}");
}

#[tokio::test(start_paused = true)]
async fn i8_an_address_that_is_taken_is_tried_again() {
    let at = local(free_port());
    let other = TcpListener::bind(at).await.unwrap();
    let (servers, mut failures, notices) = start(Options {
        healthz: Some(Bind::One(at)),
        ..options()
    });
    let problem = until(async || servers.problems().pop_first()).await;
    assert!(problem.contains(&at.to_string()), "{problem}");
    assert_eq!(
        notices.lock().unwrap()[0].reason,
        "FailedToStartProxierHealthcheck"
    );
    assert!(failures.try_recv().is_err(), "it is not the end");
    drop(other);
    until(async || servers.problems().is_empty().then_some(())).await;
    // Time is real again: sockets do not wait for it.
    tokio::time::resume();
    assert_eq!(status(&ask(at, "GET /livez").await), "HTTP/1.1 200 OK");
    assert_eq!(notices.lock().unwrap().len(), 1, "told once");
}

#[tokio::test]
async fn i8_an_address_that_is_taken_is_the_end_if_told_so() {
    let at = local(free_port());
    let _other = TcpListener::bind(at).await.unwrap();
    let (_servers, mut failures, notices) = start(Options {
        metrics: Some(Bind::One(at)),
        hard_fail: true,
        ..options()
    });
    let failure = timeout(LONG, failures.recv()).await.unwrap().unwrap();
    let error = failure.to_string();
    let expected = format!("cannot listen on {at} for metrics: Address already in use");
    assert!(error.starts_with(&expected), "{error}");
    assert_eq!(
        notices.lock().unwrap()[0].reason,
        "FailedToStartMetricServer"
    );
}

/// Clients that never finish their request fill the server; the next one is answered all the same.
#[tokio::test]
async fn many_slow_clients_keep_nobody_out() {
    let at = local(free_port());
    let (_servers, ..) = start(Options {
        healthz: Some(Bind::One(at)),
        ..options()
    });
    ask(at, "GET /livez").await;
    let mut slow = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(status(&ask(at, "GET /livez").await), "HTTP/1.1 200 OK");
    let mut rest = Vec::new();
    let oldest = slow[0].read_to_end(&mut rest);
    drop(timeout(LONG, oldest).await.expect("the oldest is cut off"));
}

#[tokio::test]
async fn the_ports_are_free_again_once_the_servers_are_dropped() {
    let (health, check) = (free_port(), free_port());
    let (servers, ..) = start(Options {
        healthz: Some(Bind::One(local(health))),
        ..options()
    });
    want(
        &servers,
        &checks(&[("web", check, Some(1), None)], &[local(0)]),
    );
    ask(local(health), "GET /livez").await;
    ask(local(check), "GET /").await;
    drop(servers);
    for port in [health, check] {
        until(async || TcpListener::bind(local(port)).await.ok()).await;
    }
}

//! Questions as they are typed, and where their packets are seen.

use std::net::IpAddr;

use clap::Parser as _;

use super::{
    super::{Cli, Error, Paint},
    parse_source, parse_target,
    place::{Hook, Known, Wish, find},
    route::Route,
};
use crate::status::{Interface, Mode, Role};

#[test]
fn sources_are_told_in_every_form() {
    let parse = |text| {
        parse_source(text).map(|source| (source.address.to_string(), source.port, source.interface))
    };
    let source = |address: &str, port, interface: Option<&str>| {
        Ok((address.to_owned(), port, interface.map(str::to_owned)))
    };
    for (text, expected) in [
        ("10.0.0.5", source("10.0.0.5", None, None)),
        ("10.0.0.5:40000", source("10.0.0.5", Some(40_000), None)),
        ("10.0.0.5%eth0", source("10.0.0.5", None, Some("eth0"))),
        (
            "[fd00::5]:40000%eth0.7",
            source("fd00::5", Some(40_000), Some("eth0.7")),
        ),
        ("fd00::5%pod0", source("fd00::5", None, Some("pod0"))),
        ("::ffff:10.0.0.5", source("10.0.0.5", None, None)),
    ] {
        assert_eq!(parse(text), expected, "of {text}");
    }
}

#[test]
fn wrong_questions_are_refused_with_what_to_say_instead() {
    let refusals: Vec<String> = ["", "10.0.0", "10.0.0.5:0", "10.0.0.5:70000", "10.0.0.5%"]
        .into_iter()
        .map(|text| format!("--from {text}: {}", parse_source(text).unwrap_err()))
        .chain(
            ["", "10.96.0.10", "10.96.0.10:0", "fd00::1", "web:80"]
                .into_iter()
                .map(|text| format!("--to {text}: {}", parse_target(text).unwrap_err())),
        )
        .collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn mixed_families_are_a_wrong_question() {
    let line = [
        "lbctl",
        "explain",
        "--from",
        "10.0.0.5",
        "--to",
        "[fd00::1]:80",
    ];
    let asked = Cli::try_parse_from(line)
        .unwrap()
        .run(&mut Vec::new(), Paint::OFF);
    assert!(matches!(asked, Err(Error::Usage(_))), "{asked:?}");
}

/// A node with two external interfaces, of which one is not attached to, and a pod's.
fn interfaces() -> Vec<Interface> {
    [
        ("eth1", 3, Role::External, Mode::None),
        ("eth0", 2, Role::External, Mode::Xdp),
        ("pod0", 7, Role::Pod, Mode::Tc),
    ]
    .map(|(name, index, role, mode)| Interface {
        name: name.to_owned(),
        index,
        role,
        mode,
        reason: String::new(),
    })
    .into()
}

/// Where a packet is seen whose source is routed like this.
fn seen(route: Route, interface: Option<&str>, hook: Option<Hook>) -> String {
    let interfaces = interfaces();
    let index = |name: &str| {
        let known = interfaces.iter().find(|interface| interface.name == name);
        known
            .map(|interface| interface.index)
            .or((name == "lo").then_some(1))
    };
    let known = Known {
        interfaces: &interfaces,
        index: &index,
        route: &|_: IpAddr| Ok(route),
    };
    let wish = Wish {
        source: "10.0.0.5".parse().unwrap(),
        interface,
        hook,
    };
    match find(wish, &known) {
        Ok(place) => format!(
            "{} {} ({}): {}{}",
            place.hook.name(),
            place.interface.as_deref().unwrap_or("-"),
            place.ifindex,
            place.because,
            if place.attached { "" } else { "; not attached" }
        ),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_place_follows_from_hook_interface_and_route() {
    let mut lines = Vec::new();
    for hook in [
        None,
        Some(Hook::Pod),
        Some(Hook::External),
        Some(Hook::Host),
    ] {
        let name = hook.map_or("any", Hook::name);
        for interface in ["eth0", "eth1", "pod0", "lo", "none"] {
            let place = seen(Route::None, Some(interface), hook);
            lines.push(format!("{name} %{interface} => {place}"));
        }
        for route in [
            Route::Local,
            Route::By(2),
            Route::By(7),
            Route::By(9),
            Route::None,
        ] {
            let place = seen(route, None, hook);
            lines.push(format!("{name} {route:?} => {place}"));
        }
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn an_interface_of_another_namespace_is_not_taken_for_this_ones() {
    let interfaces = interfaces();
    let known = Known {
        interfaces: &interfaces,
        index: &|_: &str| None,
        route: &|_: IpAddr| Ok(Route::By(2)),
    };
    let wish = Wish {
        source: "10.0.0.5".parse().unwrap(),
        interface: None,
        hook: None,
    };
    insta::assert_snapshot!(find(wish, &known).unwrap_err(), @"interface eth0 of lb-agent is not here: run lbctl in the node's network namespace");
}

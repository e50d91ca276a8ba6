//! What a proxy's log says of when it knew all objects, and of when it had programmed them.
//!
//! Both logs have the time of day in each line, to the microsecond: `2026-01-01T23:59:59.000001Z`
//! with us, `I0101 23:59:59.000001` with kube-proxy.

use std::time::Duration;

use super::Proxy;

const DAY: Duration = Duration::from_hours(24);

/// What tells that a proxy knows all objects, in whichever line says it last, and what in the first
/// line after that tells that it has programmed them.
const fn words(proxy: Proxy) -> (&'static str, &'static [&'static str]) {
    match proxy {
        Proxy::Fairlead => ("all objects are known", &["ready:"]),
        // It waits for each kind of object, and programs each family apart.
        Proxy::Nftables | Proxy::Iptables => (
            "Caches are synced",
            &["SyncProxyRules complete", "ipFamily=\"IPv4\""],
        ),
    }
}

/// How long it took from the one to the other; none while it has not said both.
pub(super) fn programming(proxy: Proxy, log: &str) -> Option<Duration> {
    let (known, programmed) = words(proxy);
    let lines: Vec<&str> = log.lines().collect();
    let first = lines.iter().rposition(|line| line.contains(known))?;
    let mut later = lines.iter().skip(first);
    let last = later.find(|line| programmed.iter().all(|words| line.contains(words)))?;
    let (from, to) = (time_of_day(lines.get(first)?)?, time_of_day(last)?);
    // Midnight may have passed.
    to.checked_sub(from)
        .or_else(|| (to + DAY).checked_sub(from))
}

fn time_of_day(line: &str) -> Option<Duration> {
    let mut words = line.split([' ', 'T', 'Z']);
    words.find_map(|word| {
        let (hours, rest) = word.split_once(':')?;
        let (minutes, seconds) = rest.split_once(':')?;
        let whole = hours.parse::<u32>().ok()? * 3600 + minutes.parse::<u32>().ok()? * 60;
        let seconds = seconds.parse::<f64>().ok()?;
        Some(Duration::from_secs(whole.into()) + Duration::try_from_secs_f64(seconds).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_knows_all_and_is_ready() {
        let log = "\
2026-01-01T10:00:00.100000Z  INFO lb-agent 0.1.0 for node node-a
2026-01-01T10:00:01.250000Z  INFO all objects are known: 21 of them
2026-01-01T10:00:01.300000Z  INFO interface eth0: external, native XDP and tc
2026-01-01T10:00:01.375500Z  INFO ready: attached to 3 interfaces
";
        let taken = programming(Proxy::Fairlead, log);
        assert_eq!(taken, Some(Duration::from_micros(125_500)));
    }

    #[test]
    fn kube_proxy_knows_all_when_it_knows_the_last_kind() {
        let log = "\
I0101 23:59:58.000000   9 shared_informer.go:356] \"Caches are synced\" controller=\"node config\"
I0101 23:59:58.100000   9 proxier.go:9] \"SyncProxyRules complete\" ipFamily=\"IPv4\" elapsed=\"1ms\"
I0101 23:59:59.500000   9 shared_informer.go:356] \"Caches are synced\" controller=\"service config\"
I0101 23:59:59.700000   9 proxier.go:9] \"SyncProxyRules complete\" ipFamily=\"IPv6\" elapsed=\"90ms\"
I0102 00:00:01.000000   9 proxier.go:9] \"SyncProxyRules complete\" ipFamily=\"IPv4\" elapsed=\"1.4s\"
I0102 00:00:09.000000   9 proxier.go:9] \"SyncProxyRules complete\" ipFamily=\"IPv4\" elapsed=\"2ms\"
";
        let taken = programming(Proxy::Nftables, log);
        assert_eq!(taken, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn who_is_not_through_has_taken_no_time() {
        let log = "2026-01-01T10:00:01.250000Z  INFO all objects are known: 21 of them\n";
        assert_eq!(programming(Proxy::Fairlead, log), None);
        assert_eq!(programming(Proxy::Fairlead, ""), None);
    }
}

//! kube-proxy's flags (SEMANTICS K4): a table of names and of the fields they set.

mod table;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Value, json};

use super::kube_proxy::{HEALTHZ_PORT, KubeProxy, METRICS_PORT, with_port};
use table::{FLAGS, HOSTNAME_OVERRIDE};

/// A flag of kube-proxy's.
struct Flag {
    name: &'static str,
    /// The field of `KubeProxyConfiguration` that it sets.
    field: &'static str,
    kind: Kind,
    help: &'static str,
}

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any text, of which the field says more.
    Text,
    /// Text that may come in parts: repeated, or with commas.
    Joined,
    /// A list, repeated or with commas.
    List,
    /// A whole number.
    Number,
    /// A number.
    Fraction,
    /// `true` or `false`; alone it is `true`.
    Bool,
    /// `name=true,...`
    Gates,
    /// A port, which replaces that of the address in the field; 0 for none.
    Port,
}

impl Flag {
    /// Whether the flag counts beside `--config`.
    fn survives_config(&self) -> bool {
        self.field == HOSTNAME_OVERRIDE
    }
}

/// kube-proxy's flags as given: which, and the values of each.
#[derive(Clone, Debug, Default)]
pub(super) struct ProxyFlags {
    given: Vec<(&'static str, Vec<String>)>,
}

impl ProxyFlags {
    /// The configuration that the flags make, or the flag that is wrong and why.
    pub(super) fn configuration(&self) -> Result<Value, (String, String)> {
        let mut config = json!(KubeProxy::defaults());
        let nftables = self.given.iter().any(|(name, values)| {
            *name == "proxy-mode" && values.last().is_some_and(|v| v == "nftables")
        });
        for (flag, values) in self.each() {
            let fault = |reason| (format!("--{}", flag.name), reason);
            let field = match flag.field {
                "iptables.masqueradeAll" if nftables => "nftables.masqueradeAll",
                field => field,
            };
            let Some(place) = place(&mut config, field) else {
                continue;
            };
            *place = flag.kind.value(values, place).map_err(fault)?;
        }
        for (field, port) in [
            ("healthzBindAddress", HEALTHZ_PORT),
            ("metricsBindAddress", METRICS_PORT),
        ] {
            if let Some(Value::String(address)) = config.get_mut(field) {
                *address = with_port(address, port);
            }
        }
        Ok(config)
    }

    /// The name of the node, if it is given.
    pub(super) fn hostname_override(&self) -> Option<&str> {
        let (_, values) = self
            .each()
            .find(|(flag, _)| flag.field == HOSTNAME_OVERRIDE)?;
        values.last().map(String::as_str)
    }

    /// Flags that do not count beside `--config`.
    pub(super) fn overruled(&self) -> Vec<String> {
        self.each()
            .filter(|(flag, _)| !flag.survives_config())
            .map(|(flag, _)| format!("--{}", flag.name))
            .collect()
    }

    /// What to call a field in a message: by the flag that set it, else by its own name.
    pub(super) fn name_of(&self, field: &str) -> String {
        let by = self.each().find(|(flag, _)| flag.sets(field));
        by.map_or_else(|| field.to_owned(), |(flag, _)| format!("--{}", flag.name))
    }

    fn each(&self) -> impl Iterator<Item = (&'static Flag, &[String])> {
        self.given.iter().filter_map(|(name, values)| {
            let flag = FLAGS.iter().find(|flag| flag.name == *name)?;
            Some((flag, values.as_slice()))
        })
    }
}

impl Flag {
    fn sets(&self, field: &str) -> bool {
        let below = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        field.strip_prefix(self.field).is_some_and(below)
    }
}

fn place<'a>(config: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    config.pointer_mut(&format!("/{}", field.replace('.', "/")))
}

impl Kind {
    /// The field's value; `old` is what it has.
    fn value(self, values: &[String], old: &Value) -> Result<Value, String> {
        let last = values.last().map_or("", String::as_str);
        let parts = || values.iter().flat_map(|value| value.split(','));
        match self {
            Self::Text => Ok(json!(last)),
            Self::Joined => Ok(json!(values.join(","))),
            Self::List => Ok(parts().filter(|part| !part.is_empty()).collect()),
            Self::Number => last
                .parse::<i32>()
                .map(|number| json!(number))
                .map_err(|_| format!("{last:?} is not a whole number")),
            Self::Fraction => last
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite())
                .map(|number| json!(number))
                .ok_or_else(|| format!("{last:?} is not a number")),
            Self::Bool => truth(last).map(|truth| json!(truth)),
            Self::Gates => parts()
                .filter(|part| !part.is_empty())
                .map(|part| {
                    let (gate, truth_text) = part
                        .split_once('=')
                        .ok_or_else(|| format!("{part:?} is not NAME=true or NAME=false"))?;
                    Ok((gate.trim().to_owned(), json!(truth(truth_text.trim())?)))
                })
                .collect::<Result<serde_json::Map<_, _>, String>>()
                .map(Value::Object),
            Self::Port => match last.parse::<u16>() {
                Ok(0) => Ok(json!("")),
                Ok(port) => Ok(json!(on_port(old.as_str().unwrap_or_default(), port))),
                Err(_) => Err(format!("{last:?} is not a port")),
            },
        }
    }
}

/// The address with this port in place of its own.
fn on_port(address: &str, port: u16) -> String {
    match address.parse::<std::net::SocketAddr>() {
        Ok(address) => with_port(&address.ip().to_string(), port),
        Err(_) => with_port(address, port),
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

impl FromArgMatches for ProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given = FLAGS
            .iter()
            .filter_map(|flag| {
                let values = matches.get_many::<String>(flag.name)?;
                Some((flag.name, values.cloned().collect()))
            })
            .collect();
        Ok(())
    }
}

impl Args for ProxyFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(Flag::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl Flag {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.name)
            .action(ArgAction::Append)
            .allow_hyphen_values(matches!(self.kind, Kind::Number | Kind::Text))
            .value_name(self.kind.placeholder())
            .hide(self.help.is_empty());
        let arg = if self.kind == Kind::Bool {
            arg.num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
        } else {
            arg
        };
        arg.help(self.help)
            .help_heading("Options that kube-proxy has too")
    }
}

impl Kind {
    const fn placeholder(self) -> &'static str {
        match self {
            Self::Text | Self::Joined => "VALUE",
            Self::List => "VALUES",
            Self::Number | Self::Fraction => "NUMBER",
            Self::Bool => "BOOL",
            Self::Gates => "GATES",
            Self::Port => "PORT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_sets_a_field_there_is() {
        let mut config = json!(KubeProxy::defaults());
        for flag in &FLAGS {
            assert!(place(&mut config, flag.field).is_some(), "{}", flag.name);
        }
    }
}

//! The file of `--config`: a `KubeProxyConfiguration`, a `FairleadConfiguration` as another
//! document, or both, as YAML or JSON.

use std::{fs, io, path::Path};

use serde_json::Value;

use super::{inapplicable, kube_proxy, kube_proxy::KubeProxy, own, own::Own};
use crate::source::manifests::{documents, lenient, strict};

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) kube_proxy: Option<KubeProxy>,
    pub(super) own: Option<Own>,
    /// Fields that kube-proxy has in other releases or not at all, and the rest of a sentence that
    /// says why they have no effect.
    pub(super) foreign: Vec<(String, String)>,
    /// All of it.
    pub(super) text: String,
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => format!("--config {shown}: not UTF-8 text"),
        _ => format!("--config {shown}: cannot read it: {error}"),
    })?;
    parse(&path.to_string_lossy(), &text).map_err(|reason| format!("--config {shown}: {reason}"))
}

/// Reads the text of the file of that name, which tells the format.
pub(super) fn parse(name: &str, text: &str) -> Result<File, String> {
    let mut file = File {
        text: text.to_owned(),
        ..File::default()
    };
    for document in documents(name, text) {
        let number = document.number;
        let at = |reason: String| format!("document {number}: {reason}");
        file.take(document.value.map_err(at)?).map_err(at)?;
    }
    if file.kube_proxy.is_none() && file.own.is_none() {
        return Err(format!(
            "there is neither a {} nor a {} in it",
            kube_proxy::KIND,
            own::KIND
        ));
    }
    Ok(file)
}

impl File {
    fn take(&mut self, mut document: Value) -> Result<(), String> {
        let api_version = header(&mut document, "apiVersion");
        let kind = header(&mut document, "kind");
        drop_nulls(&mut document);
        match (api_version.as_str(), kind.as_str()) {
            (kube_proxy::API_VERSION, kube_proxy::KIND) => {
                once(self.kube_proxy.is_some())?;
                self.take_foreign(&mut document);
                let mut config = self.take_known(document)?;
                config.complete();
                self.kube_proxy = Some(config);
                Ok(())
            }
            (own::API_VERSION, own::KIND) => {
                once(self.own.is_some())?;
                self.own = Some(strict(document)?);
                Ok(())
            }
            _ => Err(format!(
                "apiVersion {api_version:?} and kind {kind:?} are not {} and {}, or {} and {}",
                kube_proxy::API_VERSION,
                kube_proxy::KIND,
                own::API_VERSION,
                own::KIND
            )),
        }
    }

    /// Takes fields of other releases out of the document.
    fn take_foreign(&mut self, document: &mut Value) {
        for (field, why) in inapplicable::FOREIGN {
            let (parent, name) = field.rsplit_once('.').unwrap_or(("", field));
            let parent = match parent {
                "" => document.as_object_mut(),
                parent => document.get_mut(parent).and_then(Value::as_object_mut),
            };
            if parent.and_then(|fields| fields.remove(name)).is_some() {
                self.foreign
                    .push((field.to_owned(), format!(" has no effect: {why}")));
            }
        }
    }

    /// Takes what is known of the document. Like kube-proxy, an agent starts with what it does not
    /// know, and warns of it: the file may be for a release to come.
    fn take_known(&mut self, document: Value) -> Result<KubeProxy, String> {
        let (config, unknown) = lenient(document)?;
        let text = " has no effect: there is no such field";
        let unknown = unknown.into_iter().map(|field| (field, text.to_owned()));
        self.foreign.extend(unknown);
        Ok(config)
    }
}

fn once(again: bool) -> Result<(), String> {
    if again {
        return Err("there is one of this kind already".to_owned());
    }
    Ok(())
}

/// Takes a field that says what the document is.
fn header(document: &mut Value, field: &str) -> String {
    let fields = document.as_object_mut();
    match fields.and_then(|fields| fields.remove(field)) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

/// A field that is null is absent.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

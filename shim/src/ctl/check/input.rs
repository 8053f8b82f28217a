//! What is to be judged, told apart by its content: an OCI spec, or Kubernetes objects that hold pods.

use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;

use super::kube::{CronJob, Head, List, Metadata, Pod, PodObject, PodTemplate, Workload};
use super::plain;
use super::yaml::{self, Document, Fault};

/// A file's subjects, and what is to be said of the rest.
#[derive(Default)]
pub(super) struct Input {
    pub subjects: Vec<Subject>,
    /// Fields nobody knows, and objects that hold no pod.
    pub warnings: Vec<String>,
    /// Documents that cannot be judged.
    pub faults: Vec<Fault>,
}

/// One thing that gets a verdict.
pub(super) struct Subject {
    /// As `Deployment agents/api`.
    pub title: String,
    /// The document it is in.
    pub document: usize,
    /// The line the document begins in.
    pub line: usize,
    pub what: What,
}

pub(super) enum What {
    Spec(Box<Spec>),
    Pod(Box<Pod>),
}

/// Reads all documents of a file; `namespace` is that of objects which name none.
pub(super) fn read(text: &str, namespace: &str) -> Input {
    let mut input = Input::default();
    for document in yaml::documents(text) {
        if let Err(fault) = input.document(&document, namespace) {
            input.faults.push(fault);
        }
    }
    input
}

/// How to read an item of a list, or a whole document.
enum Place<'d> {
    Document,
    Item(&'d str, serde_json::Value),
}

impl Input {
    fn document(&mut self, document: &Document<'_>, namespace: &str) -> Result<(), Fault> {
        let (head, _) = yaml::read::<Head>(document)?;
        if head.oci_version.is_some() {
            let spec = spec(document)?;
            self.subjects.push(subject("OCI spec".to_owned(), document, What::Spec(Box::new(spec))));
            return Ok(());
        }
        match head.kind.as_str() {
            "" => {
                let message =
                    "it is neither an OCI spec, which has an ociVersion, nor a Kubernetes object, which has a kind";
                Err(Fault::new(document, "", message))
            }
            "List" | "PodList" => {
                let (list, unknown) = yaml::read::<List>(document)?;
                self.unknown(document, unknown);
                for (index, item) in list.items.into_iter().enumerate() {
                    let path = format!("items[{index}]");
                    let kind = item.get("kind").and_then(|kind| kind.as_str()).unwrap_or("Pod").to_owned();
                    self.object(document, &kind, Place::Item(&path, item), namespace)?;
                }
                Ok(())
            }
            kind => self.object(document, kind, Place::Document, namespace),
        }
    }

    fn object(&mut self, document: &Document<'_>, kind: &str, place: Place<'_>, namespace: &str) -> Result<(), Fault> {
        let (owner, template) = match kind {
            "Pod" => {
                let PodObject { metadata, spec, .. } = self.typed(document, place)?;
                (Metadata::default(), Pod { metadata, spec })
            }
            "PodTemplate" => {
                let PodTemplate { metadata, template, .. } = self.typed(document, place)?;
                (metadata, template)
            }
            "Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicaSet" | "ReplicationController" => {
                let Workload { metadata, spec, .. } = self.typed(document, place)?;
                (metadata, spec.template)
            }
            "CronJob" => {
                let CronJob { metadata, spec, .. } = self.typed(document, place)?;
                (metadata, spec.job_template.spec.template)
            }
            kind => {
                let kind: String = kind.chars().take(64).collect();
                let at = format!("document {}, line {}", document.number, document.line);
                self.warnings.push(format!("{at}: a {} is no kind that is judged", plain(&kind)));
                return Ok(());
            }
        };
        let Pod { mut metadata, spec } = template;
        let first = |names: [&String; 3]| names.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
        let named = if kind == "Pod" { &metadata } else { &owner };
        let name = first([&named.name, &named.generate_name, &String::new()]);
        metadata.namespace = first([&owner.namespace, &metadata.namespace, &namespace.to_owned()]);
        metadata.name.clone_from(&name);
        if spec.containers.is_empty() {
            return Err(Fault::new(document, "spec.containers", format!("the {kind} has no container")));
        }
        let title = format!("{kind} {}/{}", plain(&metadata.namespace), plain(&name));
        let pod = Pod { metadata, spec };
        self.subjects.push(subject(title, document, What::Pod(Box::new(pod))));
        Ok(())
    }

    fn typed<T: DeserializeOwned>(&mut self, document: &Document<'_>, place: Place<'_>) -> Result<T, Fault> {
        let (read, unknown) = match place {
            Place::Document => yaml::read(document)?,
            Place::Item(path, value) => yaml::item(document, path, value)?,
        };
        self.unknown(document, unknown);
        Ok(read)
    }

    fn unknown(&mut self, document: &Document<'_>, fields: Vec<String>) {
        let at = format!("document {}, line {}", document.number, document.line);
        self.warnings.extend(
            fields
                .iter()
                .map(|field| format!("{at}: unknown field {}, which Kubernetes refuses or drops", plain(field))),
        );
    }
}

fn subject(title: String, document: &Document<'_>, what: What) -> Subject {
    Subject { title, document: document.number, line: document.line, what }
}

fn spec(document: &Document<'_>) -> Result<Spec, Fault> {
    let mut json = serde_json::Deserializer::from_str(document.text);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let line = document.line + error.inner().line().saturating_sub(1);
        Fault::at(document.number, line, &field, error.into_inner().to_string())
    })?;
    json.end().map_err(|error| Fault::new(document, "", error.to_string()))?;
    Ok(read)
}

//! YAML, a document at a time, into types: with every field that no type has, and the place of what is wrong.
//!
//! serde-saphyr reads it, which is maintained, forbids `unsafe` in itself and its parser, builds no tree of values, and
//! has budgets for depth, nodes and what aliases stand for. serde_yaml is archived, and its forks stand like it on a C
//! library translated into unsafe Rust.

use serde::de::{DeserializeOwned, Deserializer};
use serde_saphyr::{Budget, Options};

use super::plain;

/// Most nodes of one document, aliases counted as often as they are used. The largest pod etcd takes has fewer.
const MAX_NODES: usize = 100_000;
/// How deep a document may be. Kubernetes' own objects stay below 20.
const MAX_DEPTH: usize = 48;

/// One document of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document<'t> {
    /// Counted from 1.
    pub number: usize,
    /// The line of the file with its first word, counted from 1.
    pub line: usize,
    /// The line of the file that `text` begins in.
    first: usize,
    pub text: &'t str,
}

/// What is wrong with a document, and where.
#[derive(Debug, thiserror::Error)]
#[error("{place}{field}: {message}")]
pub(super) struct Fault {
    place: String,
    field: String,
    message: String,
}

impl Fault {
    pub(super) fn new(document: &Document<'_>, field: &str, message: impl Into<String>) -> Self {
        Self::at(document.number, document.line, field, message)
    }

    pub(super) fn at(document: usize, line: usize, field: &str, message: impl Into<String>) -> Self {
        Fault { place: format!("document {document}, line {line}"), field: named(field), message: message.into() }
    }
}

fn named(field: &str) -> String {
    match field {
        "" | "." => String::new(),
        field => format!(", field {}", plain(field)),
    }
}

/// The documents of `text` that hold something. A line that begins with `---` ends a document whatever stands around
/// it (YAML 1.2, 9.1.2), as does one with `...`.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first, mut offset) = (0, 1, 0);
    let mut cut = |from: usize, to: usize, line: usize| {
        let text = &text[from..to];
        let says =
            |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#') && !line.starts_with('%');
        if let Some(skip) = text.lines().position(|line| says(&line) && line.trim() != "---" && line.trim() != "...") {
            documents.push(Document { number: documents.len() + 1, line: line + skip, first: line, text });
        }
    };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marks = |mark: &str| {
            line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        };
        if offset > start && marks("---") {
            cut(start, offset, first);
            (start, first) = (offset, index + 1);
        }
        offset += line.len();
        if marks("...") {
            cut(start, offset, first);
            (start, first) = (offset, index + 2);
        }
    }
    cut(start, offset, first);
    documents
}

/// Reads a document; beside it the paths of the fields that `T` does not have.
pub(super) fn read<T: DeserializeOwned>(document: &Document<'_>) -> Result<(T, Vec<String>), Fault> {
    let mut options = Options::default();
    options.with_snippet = false;
    options.alias_limits.max_total_replayed_events = MAX_NODES;
    options.budget = Some(budget());
    let mut field = String::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(document.text, options, |deserializer| {
        typed(deserializer, &mut field)
    });
    read.map_err(|error| {
        let at = error.location().map(|at| usize::try_from(at.line()).unwrap_or(1).saturating_sub(1) + document.first);
        let text = error.without_snippet().to_string();
        let message = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Fault::at(document.number, at.unwrap_or(document.line), &field, plain(&message))
    })
}

/// Reads one of the items of a list, in which the reader knows lines no more.
pub(super) fn item<T: DeserializeOwned>(
    document: &Document<'_>,
    path: &str,
    value: serde_json::Value,
) -> Result<(T, Vec<String>), Fault> {
    let mut field = String::new();
    let (read, unknown) = typed(value, &mut field)
        .map_err(|error| Fault::new(document, &format!("{path}.{field}"), plain(&error.to_string())))?;
    Ok((read, unknown.into_iter().map(|field| format!("{path}.{field}")).collect()))
}

fn typed<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
    field: &mut String,
) -> Result<(T, Vec<String>), D::Error> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(deserializer, &mut track);
    let read = serde_ignored::deserialize(deserializer, |path| unknown.push(spelled(&path)));
    if read.is_err() {
        *field = track.path().to_string();
    }
    read.map(|read| (read, unknown))
}

/// A path as it is written elsewhere: `spec.containers[0].image`.
fn spelled(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path::{Map, NewtypeStruct, NewtypeVariant, Root, Seq, Some};
    match path {
        Root => String::new(),
        Seq { parent, index } => format!("{}[{index}]", spelled(parent)),
        Map { parent, key } => match spelled(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Some { parent } | NewtypeStruct { parent } | NewtypeVariant { parent } => spelled(parent),
    }
}

fn budget() -> Budget {
    let mut budget = Budget::default();
    budget.max_documents = 2;
    budget.max_depth = MAX_DEPTH;
    budget.max_nodes = MAX_NODES;
    budget.max_events = 4 * MAX_NODES;
    budget.max_anchors = 256;
    budget.max_aliases = 4096;
    budget
}

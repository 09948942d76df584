//! JSON, for another program, or for `eagain lab diff`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::lab::kernel;
use crate::lab::run::Report;
use crate::say;

/// Grows when a reader of the old form would misunderstand the new one.
const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
pub(crate) struct Document {
    schema: u32,
    /// As `uname -r` says.
    pub(crate) kernel: String,
    /// As `uname -v` says: on some systems it names the exact build.
    #[serde(default)]
    pub(crate) version: String,
    pub(crate) experiments: Vec<Report>,
}

/// One object, an experiment a line.
pub(crate) fn write(reports: &[Report]) -> String {
    let lines: Vec<String> = reports.iter().filter_map(|report| serde_json::to_string(report).ok()).collect();
    let [kernel, version] = [kernel::release(), kernel::build()].map(serde_json::Value::from);
    format!(
        "{{\"schema\":{SCHEMA},\"kernel\":{kernel},\"version\":{version},\"experiments\":[\n{}\n]}}\n",
        lines.join(",\n")
    )
}

/// What [`write`] wrote, here or elsewhere.
pub(crate) fn read(text: &str) -> Result<Document, String> {
    let document: Document = serde_json::from_str(text).map_err(|error| format!("no results of the lab: {error}"))?;
    if document.schema != SCHEMA {
        return Err(format!("schema {}, and this program knows {SCHEMA}", document.schema));
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = document.experiments.iter().find(|report| !ids.insert(&report.id)) {
        return Err(format!("{} is in it twice", say::one_line(&twice.id)));
    }
    Ok(document)
}

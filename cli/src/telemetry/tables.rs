//! Edges and Services as aligned tables for people.

use std::collections::BTreeMap;

use super::edges::Row;
use super::services::ServiceRow;
use crate::output::Table;

/// One row for each edge.
pub fn edges(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "CALLER", "CALLEE", "REQ/S", "SUCCESS", "P50", "P99", "REFUSED",
    ]);
    for row in rows {
        table.row([
            row.edge.source.clone(),
            row.edge.destination.clone(),
            format!("{:.1}", row.per_second),
            share(row.success),
            latency(row.p50_ms),
            latency(row.p99_ms),
            counted(&row.refused),
        ]);
    }
    table
}

/// One row for each Service of each caller.
pub fn services(rows: &[ServiceRow]) -> Table {
    let mut table = Table::new([
        "CALLER",
        "SERVICE",
        "REQ/S",
        "ACTIVE",
        "PENDING",
        "RETRIES",
        "NOT RETRIED",
        "BUDGET USED",
    ]);
    for row in rows {
        table.row([
            row.caller.clone(),
            row.service.clone(),
            format!("{:.1}", row.per_second),
            format!("{:.0}", row.active),
            format!("{:.0}", row.pending),
            counted(&row.retries),
            counted(&row.not_retried),
            budget(row),
        ]);
    }
    table
}

/// One row for each endpoint of each Service of each caller.
pub fn endpoints(rows: &[ServiceRow]) -> Table {
    let mut table = Table::new([
        "CALLER", "SERVICE", "ENDPOINT", "BREAKER", "EJECTED", "REQ/S", "SUCCESS", "P50", "P99",
    ]);
    for row in rows {
        for endpoint in &row.endpoints {
            table.row([
                row.caller.clone(),
                row.service.clone(),
                endpoint.endpoint.clone(),
                endpoint.breaker.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{:.0}", endpoint.ejections),
                format!("{:.1}", endpoint.per_second),
                share(endpoint.success),
                latency(endpoint.p50_ms),
                latency(endpoint.p99_ms),
            ]);
        }
    }
    table
}

/// "1.5 ms", or "-" without calls.
pub fn latency(millis: Option<f64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.1} ms"))
}

/// "5 authorization_denied, 1 request_timeout", or "-".
pub fn counted(reasons: &BTreeMap<String, f64>) -> String {
    if reasons.is_empty() {
        return "-".to_owned();
    }
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count:.0} {reason}"))
        .collect();
    reasons.join(", ")
}

/// "99.5 %", or "-" without calls.
fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// "1.5 of 20 %", or "-" without calls.
fn budget(row: &ServiceRow) -> String {
    match (row.retry_percent, row.budget_percent) {
        (Some(used), Some(budget)) => format!("{used:.1} of {budget} %"),
        (Some(used), None) => format!("{used:.1} %"),
        (None, _) => "-".to_owned(),
    }
}

//! What was measured: rounds of samples for each system and workload, and their medians.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Values of one round, by the metric's name, which says the unit.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

pub(crate) struct Row {
    pub(crate) system: String,
    pub(crate) workload: String,
    pub(crate) rounds: Vec<Sample>,
}

impl Row {
    pub(crate) fn median(&self, metric: &str) -> Option<f64> {
        let values = self.rounds.iter().filter_map(|round| round.get(metric));
        let mut values: Vec<f64> = values.copied().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            length if length % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }

    pub(crate) fn metrics(&self) -> Vec<&'static str> {
        let mut metrics: Vec<_> = self.rounds.iter().flat_map(|round| round.keys()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        metrics.into_iter().copied().collect()
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("system".into(), json!(self.system));
        fields.insert("workload".into(), json!(self.workload));
        for metric in self.metrics() {
            fields.insert(metric.into(), json!(self.median(metric)));
        }
        fields.insert("rounds".into(), json!(self.rounds));
        Value::Object(fields)
    }
}

/// Rows in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Results {
    rows: Vec<Row>,
}

impl Results {
    pub(crate) fn add(&mut self, system: &str, workload: &str, sample: Sample) {
        let mut rows = self.rows.iter_mut();
        match rows.find(|row| row.system == system && row.workload == workload) {
            Some(row) => row.rounds.push(sample),
            None => self.rows.push(Row {
                system: system.into(),
                workload: workload.into(),
                rounds: vec![sample],
            }),
        }
    }

    pub(crate) fn median(&self, system: &str, workload: &str, metric: &str) -> Option<f64> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.system == system && row.workload == workload)?
            .median(metric)
    }

    pub(crate) fn workloads(&self) -> Vec<&str> {
        let mut workloads: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !workloads.contains(&row.workload.as_str()) {
                workloads.push(&row.workload);
            }
        }
        workloads
    }

    pub(crate) fn of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.workload == workload)
    }

    pub(crate) fn json(&self) -> Value {
        self.rows.iter().map(Row::json).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds_is_told_with_them() {
        let mut results = Results::default();
        for value in [3.0, 1.0, 2.0] {
            results.add("nginx", "opaque", Sample::from([("p50_us", value)]));
        }
        results.add("nginx", "bulk", Sample::from([("p50_us", 1.0)]));
        results.add("nginx", "bulk", Sample::from([("p50_us", 4.0)]));
        assert_eq!(results.median("nginx", "opaque", "p50_us"), Some(2.0));
        assert_eq!(results.median("nginx", "bulk", "p50_us"), Some(2.5));
        assert_eq!(results.median("envoy", "bulk", "p50_us"), None);
        assert_eq!(results.workloads(), ["opaque", "bulk"]);
        let expected = json!({
            "system": "nginx", "workload": "opaque", "p50_us": 2.0,
            "rounds": [{"p50_us": 3.0}, {"p50_us": 1.0}, {"p50_us": 2.0}],
        });
        assert_eq!(results.json()[0], expected);
    }
}

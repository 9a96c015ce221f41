//! Reading Prometheus's text format.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::http;
use crate::wait::{PATIENCE, until};

/// One line of `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Everything that `/metrics` said at one time.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Scrapes a process on loopback.
    pub fn scrape(port: u16) -> Result<Self> {
        let response = http::fetch(port, "/metrics")?;
        ensure!(
            response.status == 200,
            "/metrics answered {}",
            response.head
        );
        Self::parse(&response.text())
    }

    pub fn parse(text: &str) -> Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| sample(line).with_context(|| format!("a sample, not {line:?}")))
            .collect::<Result<_>>()?;
        Ok(Self { samples })
    }

    /// The samples of a metric whose labels are as given; other labels may be anything.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.label(label) == *value)
        })
    }

    /// The sum over every series of a metric whose labels are as given; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|sample| sample.value).sum()
    }

    /// The only series of a metric.
    pub fn value(&self, name: &str) -> Result<f64> {
        let mut found = self.select(name, &[]);
        let sample = found.next().with_context(|| format!("no metric {name}"))?;
        ensure!(found.next().is_none(), "more than one series of {name}");
        Ok(sample.value)
    }

    pub fn names(&self) -> BTreeSet<&str> {
        self.samples
            .iter()
            .map(|sample| sample.name.as_str())
            .collect()
    }
}

/// Waits until a counter, summed over its series with these labels, is at least `least`.
pub fn reaches(port: u16, name: &str, labels: &[(&str, &str)], least: f64) -> Result<()> {
    let what = format!("{name}{labels:?} >= {least}");
    let mut last = 0.0;
    let reached = until(&what, PATIENCE, || {
        last = Metrics::scrape(port)?.sum(name, labels);
        Ok(last >= least)
    });
    reached.with_context(|| {
        let all = Metrics::scrape(port).unwrap_or_default();
        let series: Vec<_> = all.select(name, &[]).collect();
        format!("{name}{labels:?} is {last}; all of its series: {series:#?}")
    })
}

fn sample(line: &str) -> Option<Sample> {
    let Some((name, rest)) = line.split_once('{') else {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        return Some(Sample {
            name,
            labels: BTreeMap::new(),
            value: words.next()?.parse().ok()?,
        });
    };
    let (labels, rest) = labels(rest)?;
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// `a="b",c="d"} rest`, with `\\`, `\"` and `\n` escaped in values.
fn labels(text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (index, '"') => break index,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_labels_with_escapes_and_values() {
        let text = "# HELP a b\na{x=\"1\\\"2\",y=\"\\\\n\\n\"} 3\nb 4e3\na{x=\"z\"} +Inf\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.samples[0].label("x"), "1\"2");
        assert_eq!(metrics.samples[0].label("y"), "\\n\n");
        assert_eq!(metrics.value("b").unwrap(), 4000.0);
        assert!(metrics.sum("a", &[("x", "z")]).is_infinite());
        assert!(Metrics::parse("a{x=\"1} 3").is_err());
    }
}

//! The names that clients say of where they want to go (SNI, `Host`), counted for people.
//!
//! They are the one label that comes from a connection itself, and so it is bounded: the first hundred
//! names of each worker, and "other" for the rest.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use super::metrics::Metrics;
use crate::detect::ServerName;

/// Names that each worker tells apart.
const MAX_NAMES: usize = 100;
const OTHER: &str = "other";

/// Belongs to one worker.
#[derive(Debug)]
pub struct Names {
    metrics: Arc<Metrics>,
    known: RefCell<HashSet<String>>,
}

impl Names {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            known: RefCell::default(),
        }
    }

    /// Counts a connection. `destination` is what the address says: `mesh`, `unknown` or `refused`.
    pub fn count(&self, destination: &str, name: Option<&ServerName>) {
        let (by, name) = match name {
            Some(ServerName::Sni(name)) => ("sni", name.as_str()),
            Some(ServerName::Host(name)) => ("host", name.as_str()),
            None => ("none", ""),
        };
        let labels = [destination, by, self.bounded(name)];
        self.metrics
            .named_connections
            .with_label_values(&labels)
            .inc();
    }

    fn bounded<'n>(&self, name: &'n str) -> &'n str {
        let mut known = self.known.borrow_mut();
        if name.is_empty() || known.contains(name) {
            return name;
        }
        if known.len() >= MAX_NAMES {
            return OTHER;
        }
        known.insert(name.to_owned());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let names = Names::new(Arc::clone(&metrics));
        for number in 0..2 * MAX_NAMES {
            names.count(
                "unknown",
                Some(&ServerName::Sni(format!("{number}.example"))),
            );
        }
        names.count("unknown", Some(&ServerName::Host("0.example".to_owned())));
        names.count("unknown", None);
        let text = metrics.render().expect("text");
        let value = |by: &str, name: &str| {
            let series = format!(
                "outrider_named_connections_total{{by=\"{by}\",destination=\"unknown\",name=\"{name}\"}} "
            );
            text.lines()
                .find_map(|line| line.strip_prefix(&series).map(str::to_owned))
        };
        assert_eq!(value("sni", "other").as_deref(), Some("100"));
        assert_eq!(value("sni", "99.example").as_deref(), Some("1"));
        assert_eq!(value("sni", "100.example"), None);
        assert_eq!(value("host", "0.example").as_deref(), Some("1"));
        assert_eq!(value("none", "").as_deref(), Some("1"));
    }
}

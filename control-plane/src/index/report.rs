//! What is wrong with one object, field by field.

use std::fmt::Display;

use outrider_api::manifest::{Cause, Object, Problem};

/// Problems of one object. A field is a path from the object, such as `spec.rules[0].timeouts`.
pub(super) struct Report<'r> {
    object: &'r Object,
    problems: &'r mut Vec<Problem>,
}

impl<'r> Report<'r> {
    pub(super) fn new(object: &'r Object, problems: &'r mut Vec<Problem>) -> Self {
        Self { object, problems }
    }

    /// Nothing is applied.
    pub(super) fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(self.object.problem(field, message));
    }

    /// It is about something that does not exist. Nothing is applied.
    pub(super) fn missing(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let problem = self.object.problem(field, message);
        self.problems.push(problem.because(Cause::TargetNotFound));
    }

    /// It is applied, and does less than it says.
    pub(super) fn warning(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let problem = self.object.problem(field, message);
        self.problems.push(problem.as_warning());
    }

    /// The value, or `None` and an error.
    pub(super) fn good<T, E: Display>(
        &mut self,
        field: impl Into<String>,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(field, error.to_string());
                None
            }
        }
    }

    /// Whether a list is as long as the Gateway API lets it be.
    pub(super) fn at_most(&mut self, field: &str, length: usize, most: usize) {
        if length > most {
            let message = format!("has {length} entries, expected at most {most}");
            self.error(field, message);
        }
    }
}

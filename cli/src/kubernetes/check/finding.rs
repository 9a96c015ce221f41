//! What was found, how bad it is, and what to do about it.

use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;

use crate::REFUSED;
use crate::output::{self, Format, Palette};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It works, or will, but not as it should.
    Warning,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// Which check: one of a closed set, for programs.
    pub(super) check: &'static str,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, message: impl Display) -> Self {
        Self {
            level: Level::Ok,
            check,
            message: message.to_string(),
            remedy: None,
        }
    }

    pub(super) fn warning(
        check: &'static str,
        message: impl Display,
        remedy: impl Display,
    ) -> Self {
        Self {
            level: Level::Warning,
            check,
            message: message.to_string(),
            remedy: Some(remedy.to_string()),
        }
    }

    pub(super) fn error(check: &'static str, message: impl Display, remedy: impl Display) -> Self {
        Self {
            level: Level::Error,
            check,
            message: message.to_string(),
            remedy: Some(remedy.to_string()),
        }
    }

    /// It could not be looked at; the reason says what to do.
    pub(super) fn unknown(check: &'static str, reason: impl Display) -> Self {
        Self {
            level: Level::Warning,
            check,
            message: format!("not looked at: {reason}"),
            remedy: None,
        }
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn of(findings: Vec<Finding>) -> Self {
        let count = |level| {
            let findings = findings.iter();
            findings.filter(|finding| finding.level == level).count()
        };
        Self {
            errors: count(Level::Error),
            warnings: count(Level::Warning),
            findings,
        }
    }

    pub(super) fn exit(&self) -> ExitCode {
        match self.errors {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(REFUSED),
        }
    }

    pub(super) fn print(&self, format: Format) {
        match format {
            Format::Json => output::json(self),
            Format::Text => {
                let palette = Palette::for_stdout();
                for finding in &self.findings {
                    finding.lines(palette).iter().for_each(output::line);
                }
                output::line(self.summary());
            }
        }
    }

    fn summary(&self) -> String {
        match (self.errors, self.warnings) {
            (0, 0) => "all is well".to_owned(),
            (errors, warnings) => format!("errors: {errors}, warnings: {warnings}"),
        }
    }
}

impl Finding {
    fn lines(&self, palette: Palette) -> Vec<String> {
        let level = match self.level {
            Level::Ok => palette.good("ok     "),
            Level::Warning => palette.warning("warning"),
            Level::Error => palette.bad("error  "),
        };
        let mut lines = vec![format!("{level}  {}: {}", self.check, self.message)];
        if let Some(remedy) = &self.remedy {
            lines.push(format!("         do: {remedy}"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_and_remedies_are_printed() {
        let report = Report::of(vec![
            Finding::ok("version", "Kubernetes 1.36.2"),
            Finding::warning("clock", "it is 9s behind", "start NTP"),
            Finding::error("crds", "none", "outrider install"),
        ]);
        assert_eq!(report.summary(), "errors: 1, warnings: 1");
        assert_eq!(report.exit(), ExitCode::from(REFUSED));
        let lines = report.findings[2].lines(Palette::plain());
        assert_eq!(
            lines,
            ["error    crds: none", "         do: outrider install"]
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][1]["level"], "warning");
    }

    #[test]
    fn warnings_are_no_errors() {
        let report = Report::of(vec![Finding::unknown("lease", "you may not")]);
        assert_eq!(report.exit(), ExitCode::SUCCESS);
    }
}

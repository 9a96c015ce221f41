//! What a pod says about its sidecar: the label [`INJECT`] and the annotations `outrider.mesh/…`.
//!
//! The injector reads them to make the sidecar, the source to make the Workload; both through
//! [`Annotations::parse`], so that a pod cannot mean one thing to one and another to the other.
//! [`Annotation`] is the list of them: the reference page is made of it.

mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use crate::kinds::{Mode, Mtls};
use crate::manifest::suggest;
use crate::sidecar::EXCLUSIONS_MAX;

pub use value::Quantity;

/// The label of namespaces (`enabled`, `disabled`) and pods (`true`, `false`) that says whether pods get
/// a sidecar.
pub const INJECT: &str = "outrider.mesh/inject";
/// What is before the `/` of every annotation and label of ours.
pub const DOMAIN: &str = "outrider.mesh";
/// A pod is of the mesh if it has a container of this name.
pub const SIDECAR_CONTAINER: &str = "outrider-proxy";
/// The container that writes the rules of interception, and ends.
pub const INIT_CONTAINER: &str = "outrider-init";
/// A value is quoted in messages up to this length, characters.
const QUOTED_MAX: usize = 64;

/// Every annotation of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Annotation {
    ExcludeInboundPorts,
    ExcludeOutboundPorts,
    ExcludeOutboundCidrs,
    InterceptionMode,
    Mtls,
    AppProtocols,
    LogLevel,
    DrainTimeout,
    Workers,
    CpuRequest,
    CpuLimit,
    MemoryRequest,
    MemoryLimit,
    ProxyImage,
    Sidecar,
}

/// When an annotation takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// When the pod is created: a change later changes nothing.
    AtCreation,
    /// Whenever it changes.
    AtOnce,
}

impl Annotation {
    pub const ALL: [Self; 15] = [
        Self::ExcludeInboundPorts,
        Self::ExcludeOutboundPorts,
        Self::ExcludeOutboundCidrs,
        Self::InterceptionMode,
        Self::Mtls,
        Self::AppProtocols,
        Self::LogLevel,
        Self::DrainTimeout,
        Self::Workers,
        Self::CpuRequest,
        Self::CpuLimit,
        Self::MemoryRequest,
        Self::MemoryLimit,
        Self::ProxyImage,
        Self::Sidecar,
    ];

    /// What is written, such as `outrider.mesh/workers`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::ExcludeInboundPorts => "outrider.mesh/exclude-inbound-ports",
            Self::ExcludeOutboundPorts => "outrider.mesh/exclude-outbound-ports",
            Self::ExcludeOutboundCidrs => "outrider.mesh/exclude-outbound-cidrs",
            Self::InterceptionMode => "outrider.mesh/interception-mode",
            Self::Mtls => "outrider.mesh/mtls",
            Self::AppProtocols => "outrider.mesh/app-protocols",
            Self::LogLevel => "outrider.mesh/log-level",
            Self::DrainTimeout => "outrider.mesh/drain-timeout",
            Self::Workers => "outrider.mesh/workers",
            Self::CpuRequest => "outrider.mesh/cpu-request",
            Self::CpuLimit => "outrider.mesh/cpu-limit",
            Self::MemoryRequest => "outrider.mesh/memory-request",
            Self::MemoryLimit => "outrider.mesh/memory-limit",
            Self::ProxyImage => "outrider.mesh/proxy-image",
            Self::Sidecar => "outrider.mesh/sidecar",
        }
    }

    /// What may be written; completes "expected …".
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::ExcludeInboundPorts | Self::ExcludeOutboundPorts => {
                "ports from 1 to 65535 with commas between, such as 3306,6379"
            }
            Self::ExcludeOutboundCidrs => {
                "CIDR blocks or addresses with commas between, such as 10.96.0.1,192.0.2.0/24"
            }
            Self::InterceptionMode => "Redirect or TProxy",
            Self::Mtls => "Strict or Permissive",
            Self::AppProtocols => {
                "PORT=PROTOCOL with commas between, such as 8080=http,5432=opaque; protocols are \
                 http, http1, http2, grpc, tls and opaque"
            }
            Self::LogLevel => {
                "error, warn, info, debug, trace or off, or a filter such as info,outrider_proxy=debug"
            }
            Self::DrainTimeout => "a duration from 0s to 1h, such as 30s",
            Self::Workers => "a number from 1 to 256, such as 2",
            Self::CpuRequest | Self::CpuLimit => "an amount of CPU above 0, such as 100m or 0.5",
            Self::MemoryRequest | Self::MemoryLimit => {
                "an amount of memory above 0, such as 64Mi or 1G"
            }
            Self::ProxyImage => "the name of an image, such as registry.example/outrider-proxy:1.0",
            Self::Sidecar => "native or classic",
        }
    }

    /// What holds where it is not written.
    #[must_use]
    pub fn default_text(self) -> &'static str {
        match self {
            Self::ExcludeInboundPorts | Self::ExcludeOutboundPorts | Self::ExcludeOutboundCidrs => {
                "none"
            }
            Self::InterceptionMode => "`Redirect`",
            Self::Mtls => "`MeshConfig.spec.mtls`",
            Self::AppProtocols => "as the Service says; else by the port's name, else detected",
            Self::LogLevel => "`info`",
            Self::DrainTimeout => "`MeshConfig.spec.drainTimeout`",
            Self::Workers => "`1`",
            Self::CpuRequest => "`10m`",
            Self::MemoryRequest => "`32Mi`",
            Self::CpuLimit | Self::MemoryLimit => "no limit",
            Self::ProxyImage => "that of the injector",
            Self::Sidecar => "`native` from Kubernetes 1.29 on, else `classic`",
        }
    }

    /// What it does.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::ExcludeInboundPorts => {
                "Ports of the app whose clients come straight to it: **no identity, no policy**."
            }
            Self::ExcludeOutboundPorts => "Ports that the app reaches past the sidecar.",
            Self::ExcludeOutboundCidrs => "Destinations that the app reaches past the sidecar.",
            Self::InterceptionMode => {
                "How connections are taken. With `TProxy` the app sees its client's address; the \
                 sidecar then starts as root, with NET_ADMIN, SETUID and SETGID, and becomes user \
                 2102."
            }
            Self::Mtls => "What becomes of plaintext that comes to the app.",
            Self::AppProtocols => "What is spoken on ports of the app.",
            Self::LogLevel => "What the sidecar logs.",
            Self::DrainTimeout => "How long a sidecar that ends lets requests finish.",
            Self::Workers => "Threads of the sidecar that carry traffic.",
            Self::CpuRequest => "CPU that the sidecar asks for.",
            Self::CpuLimit => "CPU that the sidecar may take.",
            Self::MemoryRequest => "Memory that the sidecar asks for.",
            Self::MemoryLimit => "Memory that the sidecar may take.",
            Self::ProxyImage => "The image of the sidecar and of `init`.",
            Self::Sidecar => "How the sidecar is part of the pod.",
        }
    }

    #[must_use]
    pub fn effect(self) -> Effect {
        match self {
            Self::Mtls | Self::AppProtocols => Effect::AtOnce,
            Self::ExcludeInboundPorts
            | Self::ExcludeOutboundPorts
            | Self::ExcludeOutboundCidrs
            | Self::InterceptionMode
            | Self::LogLevel
            | Self::DrainTimeout
            | Self::Workers
            | Self::CpuRequest
            | Self::CpuLimit
            | Self::MemoryRequest
            | Self::MemoryLimit
            | Self::ProxyImage
            | Self::Sidecar => Effect::AtCreation,
        }
    }
}

/// How a sidecar is part of its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SidecarKind {
    /// An init container that is restarted always: it starts before everything else, and ends after it.
    Native,
    /// A container like the app's.
    Classic,
}

/// What the annotations of a pod say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    pub exclude_inbound_ports: BTreeSet<u16>,
    pub exclude_outbound_ports: BTreeSet<u16>,
    pub exclude_outbound_cidrs: BTreeSet<IpNet>,
    pub interception_mode: Option<Mode>,
    pub mtls: Option<Mtls>,
    /// By port, in the words of a Service's `appProtocol`.
    pub app_protocols: BTreeMap<u16, &'static str>,
    pub log_level: Option<String>,
    pub drain_timeout: Option<Duration>,
    pub workers: Option<u16>,
    pub cpu_request: Option<Quantity>,
    pub cpu_limit: Option<Quantity>,
    pub memory_request: Option<Quantity>,
    pub memory_limit: Option<Quantity>,
    pub proxy_image: Option<String>,
    pub sidecar: Option<SidecarKind>,
}

/// An annotation that cannot be used. Displays the annotation, what is wrong, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key}: {message}")]
pub struct AnnotationError {
    /// The whole key.
    pub key: String,
    pub message: String,
}

impl Annotations {
    /// Reads `annotations`; those of others are passed over.
    ///
    /// # Errors
    /// Every annotation of ours that is not known or says nothing that can be used.
    pub fn parse<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<AnnotationError>> {
        let (read, errors) = Self::read(annotations);
        if errors.is_empty() {
            Ok(read)
        } else {
            Err(errors)
        }
    }

    /// [`Self::parse`] that goes on: what is wrong counts as not written.
    pub fn read<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> (Self, Vec<AnnotationError>) {
        let mut read = Self::default();
        let mut errors = Vec::new();
        for (key, value) in annotations {
            if key
                .split_once('/')
                .is_none_or(|(domain, _)| domain != DOMAIN)
            {
                continue;
            }
            let known = Annotation::ALL.into_iter().find(|known| known.key() == key);
            let problem = match known {
                Some(known) => read.set(known, value).err(),
                None => Some(unknown(key)),
            };
            errors.extend(problem.map(|message| AnnotationError {
                key: key.to_owned(),
                message,
            }));
        }
        errors.extend(read.contradictions());
        (read, errors)
    }

    fn set(&mut self, annotation: Annotation, text: &str) -> Result<(), String> {
        let wrong = || format!("{} is not {}", quoted(text), annotation.expected());
        let text = text.trim();
        match annotation {
            Annotation::ExcludeInboundPorts => {
                self.exclude_inbound_ports = value::list(text, value::port).ok_or_else(wrong)?;
            }
            Annotation::ExcludeOutboundPorts => {
                self.exclude_outbound_ports = value::list(text, value::port).ok_or_else(wrong)?;
            }
            Annotation::ExcludeOutboundCidrs => {
                self.exclude_outbound_cidrs = value::list(text, value::net).ok_or_else(wrong)?;
            }
            Annotation::InterceptionMode => {
                self.interception_mode = Some(match text {
                    "Redirect" => Mode::Redirect,
                    "TProxy" => Mode::TProxy,
                    _ => return Err(wrong()),
                });
            }
            Annotation::Mtls => {
                self.mtls = Some(match text {
                    "Strict" => Mtls::Strict,
                    "Permissive" => Mtls::Permissive,
                    _ => return Err(wrong()),
                });
            }
            Annotation::AppProtocols => {
                self.app_protocols = value::protocols(text).ok_or_else(wrong)?;
            }
            Annotation::LogLevel => {
                self.log_level = Some(value::log_filter(text).ok_or_else(wrong)?);
            }
            Annotation::DrainTimeout => {
                self.drain_timeout = Some(value::drain_timeout(text).ok_or_else(wrong)?);
            }
            Annotation::Workers => self.workers = Some(value::workers(text).ok_or_else(wrong)?),
            Annotation::CpuRequest => self.cpu_request = Some(value::cpu(text).ok_or_else(wrong)?),
            Annotation::CpuLimit => self.cpu_limit = Some(value::cpu(text).ok_or_else(wrong)?),
            Annotation::MemoryRequest => {
                self.memory_request = Some(value::memory(text).ok_or_else(wrong)?);
            }
            Annotation::MemoryLimit => {
                self.memory_limit = Some(value::memory(text).ok_or_else(wrong)?);
            }
            Annotation::ProxyImage => {
                self.proxy_image = Some(value::image(text).ok_or_else(wrong)?)
            }
            Annotation::Sidecar => {
                self.sidecar = Some(match text {
                    "native" => SidecarKind::Native,
                    "classic" => SidecarKind::Classic,
                    _ => return Err(wrong()),
                });
            }
        }
        Ok(())
    }

    /// What is good alone, and not together.
    fn contradictions(&self) -> impl Iterator<Item = AnnotationError> + use<> {
        let more = |request: &Option<Quantity>, limit: &Option<Quantity>, key: Annotation| {
            let (Some(request), Some(limit)) = (request, limit) else {
                return None;
            };
            (request > limit).then(|| AnnotationError {
                key: key.key().to_owned(),
                message: format!("{request} is above the limit {limit}, expected at most that"),
            })
        };
        let exclusions = self.exclude_inbound_ports.len()
            + self.exclude_outbound_ports.len()
            + self.exclude_outbound_cidrs.len();
        let many = (exclusions > EXCLUSIONS_MAX).then(|| AnnotationError {
            key: Annotation::ExcludeOutboundCidrs.key().to_owned(),
            message: format!(
                "{exclusions} ports and blocks are excluded together, expected at most \
                 {EXCLUSIONS_MAX}; write fewer, wider blocks"
            ),
        });
        [
            more(&self.cpu_request, &self.cpu_limit, Annotation::CpuRequest),
            more(
                &self.memory_request,
                &self.memory_limit,
                Annotation::MemoryRequest,
            ),
            many,
        ]
        .into_iter()
        .flatten()
    }
}

fn unknown(key: &str) -> String {
    if key == INJECT {
        return format!(
            "is a label, not an annotation; write {INJECT} under metadata.labels (of a Deployment: \
             under spec.template.metadata.labels)"
        );
    }
    let known = Annotation::ALL.map(Annotation::key);
    format!("is not known, {}", suggest::expected(key, &known))
}

fn quoted(text: &str) -> impl fmt::Display {
    let shown: String = text.chars().take(QUOTED_MAX).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

#[cfg(test)]
mod tests;

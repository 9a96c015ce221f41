//! What travels from a request that a service answers to the calls that it makes for it: the trace,
//! and with it the time that is left. Sidecars write and read these fields; an app only has to hand
//! them on.

use http::{HeaderMap, HeaderName};
use tonic::metadata::MetadataMap;

/// W3C Trace Context, and gRPC's deadline. The mesh's own time is a member of `tracestate`.
const HANDED_ON: [HeaderName; 3] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("grpc-timeout"),
];

/// The fields of one request that its calls must carry too.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallContext {
    fields: HeaderMap,
}

impl CallContext {
    pub(crate) fn of(request: &HeaderMap) -> Self {
        let mut fields = HeaderMap::new();
        for name in HANDED_ON {
            for value in request.get_all(&name) {
                fields.append(name.clone(), value.clone());
            }
        }
        Self { fields }
    }

    /// For an HTTP call; `grpc-timeout` means nothing there.
    pub(crate) fn write_to(&self, call: &mut HeaderMap) {
        for (name, value) in &self.fields {
            if name != "grpc-timeout" {
                call.append(name.clone(), value.clone());
            }
        }
    }

    /// For a gRPC call.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.fields.clone());
        request
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn served() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("traceparent", "00-1-2-01"),
            ("tracestate", "outrider=t900.a0.i7"),
            ("tracestate", "other=1"),
            ("grpc-timeout", "900m"),
            ("cookie", "secret"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_call_carries_the_trace_and_nothing_else() {
        let mut call = HeaderMap::new();
        CallContext::of(&served()).write_to(&mut call);
        assert_eq!(call["traceparent"], "00-1-2-01");
        let states: Vec<_> = call.get_all("tracestate").iter().collect();
        assert_eq!(states, ["outrider=t900.a0.i7", "other=1"]);
        assert_eq!(call.len(), 3);
    }

    #[test]
    fn a_grpc_call_carries_the_deadline_too() {
        let request = CallContext::of(&served()).request(());
        assert_eq!(request.metadata().get("grpc-timeout").unwrap(), "900m");
        assert_eq!(
            request.metadata().get("tracestate").unwrap(),
            "outrider=t900.a0.i7"
        );
        assert!(!request.metadata().contains_key("cookie"));
    }
}

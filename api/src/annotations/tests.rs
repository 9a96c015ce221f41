use super::*;

fn one(key: &str, value: &str) -> Result<Annotations, String> {
    Annotations::parse([(key, value)])
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn set(annotation: Annotation, value: &str) -> Result<Annotations, String> {
    one(annotation.key(), value)
}

#[test]
fn each_is_read() {
    use Annotation as A;
    let of = |annotation, value| set(annotation, value).unwrap();
    assert_eq!(
        of(A::ExcludeInboundPorts, "9090, 9091,9090").exclude_inbound_ports,
        BTreeSet::from([9090, 9091])
    );
    assert_eq!(
        of(A::ExcludeOutboundPorts, "3306").exclude_outbound_ports,
        BTreeSet::from([3306])
    );
    let nets = of(A::ExcludeOutboundCidrs, "10.96.0.1,fd00::/8").exclude_outbound_cidrs;
    let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.96.0.1/32", "fd00::/8"]);
    assert_eq!(
        of(A::InterceptionMode, "TProxy").interception_mode,
        Some(Mode::TProxy)
    );
    assert_eq!(of(A::Mtls, "Permissive").mtls, Some(Mtls::Permissive));
    let protocols = of(A::AppProtocols, "8080=http,5432=opaque").app_protocols;
    assert_eq!(protocols, BTreeMap::from([(8080, "http"), (5432, "tcp")]));
    let filter = "info,outrider_proxy::inbound=debug";
    assert_eq!(of(A::LogLevel, filter).log_level.as_deref(), Some(filter));
    assert_eq!(
        of(A::DrainTimeout, "1m30s").drain_timeout,
        Some(Duration::from_secs(90))
    );
    assert_eq!(of(A::Workers, "256").workers, Some(256));
    assert_eq!(of(A::CpuRequest, "250m").cpu_request, value::cpu("0.25"));
    assert_eq!(of(A::CpuLimit, "2").cpu_limit, value::cpu("2000m"));
    assert_eq!(
        of(A::MemoryRequest, "64Mi").memory_request,
        value::memory("65536Ki")
    );
    assert_eq!(
        of(A::MemoryLimit, "0.5Gi").memory_limit,
        value::memory("536870912")
    );
    let image = "registry.example:5000/mesh/outrider-proxy@sha256:00ff";
    assert_eq!(of(A::ProxyImage, image).proxy_image.as_deref(), Some(image));
    assert_eq!(
        of(A::Sidecar, "classic").sidecar,
        Some(SidecarKind::Classic)
    );
}

#[test]
fn what_is_wrong_names_the_annotation_and_the_remedy() {
    use Annotation as A;
    let table: [(A, &[&str]); 15] = [
        (
            A::ExcludeInboundPorts,
            &["", "0", "65536", "+80", "80-90", "80,", "http", "80;81"],
        ),
        (A::ExcludeOutboundPorts, &["", "-1", "8 0"]),
        (
            A::ExcludeOutboundCidrs,
            &[
                "",
                "10.0.0.1/8",
                "10.0.0.0/33",
                "db.example",
                "10.0.0.0/8 fd00::/8",
            ],
        ),
        (A::InterceptionMode, &["", "redirect", "tproxy", "None"]),
        (A::Mtls, &["", "strict", "PERMISSIVE", "Disabled"]),
        (
            A::AppProtocols,
            &[
                "",
                "8080",
                "8080=",
                "=http",
                "8080=htpp",
                "8080=http,8080=grpc",
                "http=8080",
            ],
        ),
        (
            A::LogLevel,
            &[
                "",
                "loud",
                "info,",
                "=debug",
                "info debug",
                "a b=info",
                "outrider_proxy",
            ],
        ),
        (A::DrainTimeout, &["", "30", "-1s", "1h1s", "1.5s"]),
        (A::Workers, &["", "0", "257", "two", "1.0"]),
        (
            A::CpuRequest,
            &["", "0", "m", "-1", "1e3", "100Mi", "1 m", ".5", "1."],
        ),
        (A::CpuLimit, &["0m", "0.0"]),
        (
            A::MemoryRequest,
            &["", "0", "Mi", "64MB", "64mi", "-64Mi", "1234567890123"],
        ),
        (A::MemoryLimit, &["0Ki", "64 Mi"]),
        (A::ProxyImage, &["", " ", "a b", "-x", "image\"", "a\nb"]),
        (A::Sidecar, &["", "Native", "none"]),
    ];
    for (annotation, values) in table {
        for value in values {
            let error = set(annotation, value).expect_err(value);
            assert!(error.contains(annotation.key()), "{error}");
            assert!(error.contains(annotation.expected()), "{error}");
        }
    }
}

#[test]
fn a_misspelt_one_is_refused() {
    let error = one("outrider.mesh/exclude-inbound-port", "80").unwrap_err();
    assert!(
        error.contains("did you mean \"outrider.mesh/exclude-inbound-ports\"?"),
        "{error}"
    );
    let error = one(INJECT, "true").unwrap_err();
    assert!(error.contains("is a label, not an annotation"), "{error}");
}

#[test]
fn those_of_others_are_passed_over() {
    for key in [
        "prometheus.io/port",
        "workers",
        "outrider.mesh.example/workers",
        "x.outrider.mesh/workers",
        "",
    ] {
        assert_eq!(one(key, "?"), Ok(Annotations::default()), "{key}");
    }
}

#[test]
fn what_is_good_alone_is_not_always_good_together() {
    let errors = Annotations::parse([
        (Annotation::CpuRequest.key(), "2"),
        (Annotation::CpuLimit.key(), "500m"),
        (Annotation::MemoryRequest.key(), "1Gi"),
        (Annotation::MemoryLimit.key(), "1Gi"),
    ]);
    let errors = errors.unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].key, Annotation::CpuRequest.key());
    let ports: Vec<String> = (1..=257).map(|port: u16| port.to_string()).collect();
    let error = set(Annotation::ExcludeInboundPorts, &ports.join(",")).unwrap_err();
    assert!(error.contains("expected at most 256"), "{error}");
}

#[test]
fn all_that_is_wrong_is_told_and_the_rest_is_read() {
    let pairs = [
        (Annotation::Workers.key(), "many"),
        (Annotation::Mtls.key(), "Strict"),
        (Annotation::LogLevel.key(), "loud"),
    ];
    let (read, errors) = Annotations::read(pairs);
    assert_eq!(read.mtls, Some(Mtls::Strict));
    assert_eq!(errors.len(), 2);
    assert_eq!(Annotations::parse(pairs), Err(errors));
}

#[test]
fn a_long_value_is_not_repeated_whole() {
    let error = set(Annotation::Workers, &"9".repeat(100_000)).unwrap_err();
    assert!(error.len() < 300, "{}", error.len());
}

#[test]
fn keys_are_distinct_and_labels_of_kubernetes() {
    let keys: BTreeSet<&str> = Annotation::ALL.into_iter().map(Annotation::key).collect();
    assert_eq!(keys.len(), Annotation::ALL.len());
    assert!(
        keys.iter()
            .all(|key| key.starts_with("outrider.mesh/") && *key != INJECT)
    );
}

proptest::proptest! {
    #[test]
    fn nothing_panics(index in 0..15_usize, value in "\\PC{0,80}") {
        let _ = set(Annotation::ALL[index], &value);
    }

    #[test]
    fn more_is_greater(a in 1_u32..1_000_000, b in 1_u32..1_000_000) {
        let of = |number: u32| value::memory(&format!("{number}Mi")).unwrap();
        proptest::prop_assert_eq!(of(a).cmp(&of(b)), a.cmp(&b));
    }
}

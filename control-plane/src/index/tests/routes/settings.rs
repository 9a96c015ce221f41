//! What a rule says beside its matches.

use super::*;

#[test]
fn filters_of_every_kind() {
    let mesh = mesh(&[http(
        "r",
        "[{matches: [{path: {value: /v1}}], filters: [\
         {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], add: [{name: X-A, value: b}], remove: [X-B]}}, \
         {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-C, value: c}]}}, \
         {type: URLRewrite, urlRewrite: {hostname: b.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}, \
         {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}, fraction: {numerator: 1, denominator: 1000}}}, \
         {type: CORS, cors: {allowOrigins: ['https://*.shop.example'], allowMethods: [GET], allowCredentials: true}}], \
         backendRefs: [{name: b, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-d]}}]}], \
         timeouts: {request: 2s, backendRequest: 0s}, retry: {codes: [500], attempts: 2, backoff: 100ms}}]",
    )]);
    assert_eq!(warnings(&mesh), [""; 0]);
    let destination = &**mesh.destination(&service("a")).unwrap();
    let wire = outrider_api::proto::Destination::from(destination);
    let read: outrider_api::model::Destination = wire.try_into().unwrap();
    assert_eq!(&read, destination, "a sidecar takes it as it is");
    let rule = &http_routes(&groups(&mesh)[0]).rules[0];
    let [
        Filter::RequestHeaders(request),
        Filter::ResponseHeaders(response),
        Filter::Rewrite(rewrite),
        Filter::Mirror(mirror),
        Filter::Cors(cors),
    ] = rule.filters.as_slice()
    else {
        panic!("{rule:?}");
    };
    assert_eq!(request.set[0].0, "x-a");
    assert_eq!((request.add.len(), request.remove.len()), (1, 1));
    assert_eq!(response.set[0].1, "c");
    assert_eq!(rewrite.path, Some(PathEdit::Prefix(String::new())));
    assert_eq!((mirror.numerator, mirror.denominator), (1, 1000));
    assert_eq!((cors.max_age, cors.allow_credentials), (5, true));
    assert_eq!(rule.backends[0].filters.len(), 1);
    assert_eq!(
        rule.timeouts.request.unwrap().duration(),
        Some(Duration::from_secs(2))
    );
    assert_eq!(rule.timeouts.backend_request.unwrap().duration(), None);
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!(
        (retry.codes.as_deref(), retry.attempts),
        (Some(&[500][..]), Some(2))
    );
}

#[test]
fn what_a_rule_s_retry_leaves_out_is_the_service_s() {
    let mesh = mesh(&[http("r", &format!("[{{retry: {{attempts: 3}}, {TO_B}}}]"))]);
    let retry = http_routes(&groups(&mesh)[0]).rules[0].retry.as_ref();
    let retry = retry.unwrap();
    assert_eq!((&retry.codes, retry.attempts), (&None, Some(3)));
}

#[test]
fn a_rule_s_settings_have_their_place() {
    let text = format!(
        "{SERVICES}{}",
        http("r", &format!("[{{timeouts: {{request: 2s}}, {TO_B}}}]"))
    );
    let objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    let mesh = build(&objects, None).unwrap();
    let rule = &http_routes(&groups(&mesh)[0]).rules[0];
    let settings = explain::rule_settings(&objects, rule);
    let place = line(&text, "  rules: ");
    let texts: Vec<String> = settings
        .iter()
        .map(|setting| format!("{} {} {}", setting.field, setting.value, setting.origin))
        .collect();
    let expected = format!("timeouts.request 2s HTTPRoute shop/r rule 0 (mesh.yaml:{place})");
    assert_eq!(texts, [expected]);
}

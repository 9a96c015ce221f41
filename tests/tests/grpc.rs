//! gRPC through the mesh, with clients and servers of two libraries that are not ours.

use anyhow::{Context, Result};
use mesh_tests::manifest::{account, policy};
use mesh_tests::peers::Language::{self, Go, Python};
use mesh_tests::peers::{Server, grpc_calls, grpc_server, h2_field, h2_raw};
use mesh_tests::wait::{PATIENCE, until};
use mesh_tests::{Mesh, metrics};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::refusals;

fn grpc_mesh(server: Language) -> Result<(TempDir, Server, Mesh)> {
    let folder = tempfile::tempdir()?;
    let server = grpc_server(server, folder.path())?;
    let mesh = Mesh::pair(server.port, Some("grpc"))?
        .setting("defaultDeny", false)
        .start()?;
    Ok((folder, server, mesh))
}

/// Every kind of call, with what it must give: code, details and messages.
const CALLS: [&str; 11] = [
    "unary:hello",
    "large:3000000",
    "server_stream:300",
    "client_stream:200",
    "bidi:50",
    "fail:5:no such order",
    "fail:16:who are you",
    "fail_midway:5",
    "big_trailers:40960",
    "metadata:asked",
    "unknown",
];

fn check(client: Language, server: Language) -> Result<()> {
    let (_folder, _server, mesh) = grpc_mesh(server)?;
    for port in [
        mesh.http("order-1")?.port(),
        mesh.upstream("order-1", "billing", 80)?.port(),
    ] {
        let answers = grpc_calls(client, port, "billing", &CALLS)?;
        let told: Vec<Value> = answers
            .iter()
            .map(|answer| json!([answer["code"], answer["messages"].as_array().map(Vec::len)]))
            .collect();
        let expected = json!([
            [0, 1],
            [0, 1],
            [0, 300],
            [0, 1],
            [0, 50],
            [5, 0],
            [16, 0],
            [15, 2],
            [0, 1],
            [0, 1],
            [12, 0]
        ]);
        assert_eq!(Value::from(told), expected, "{answers:#?}");

        assert_eq!(answers[0]["messages"], json!(["hello"]));
        assert_eq!(answers[0]["initial"]["x-initial"], "first");
        assert_eq!(answers[0]["initial"]["x-bytes-bin"], "00ff");
        assert_eq!(answers[0]["trailing"]["x-trailing"], "last");
        assert_eq!(answers[1]["messages"], json!(["3000000"]));
        assert_eq!(answers[2]["messages"][299], "item 299");
        assert_eq!(
            answers[3]["messages"],
            json!(["200 messages, 200000 bytes"])
        );
        assert_eq!(answers[4]["messages"][49], "echo 49");
        assert_eq!(answers[5]["details"], "no such order");
        assert_eq!(answers[5]["trailing"]["x-trailing"], "failed");
        assert_eq!(answers[7]["messages"], json!(["0", "1"]));
        assert_eq!(answers[7]["details"], "after two");
        for index in 0..4 {
            let trailer = answers[8]["trailing"][format!("x-big-{index}")].as_str();
            assert_eq!(trailer.map(str::len), Some(10_240), "{:#?}", answers[8]);
        }
        let seen = answers[9]["messages"][0].as_str().context("metadata")?;
        assert!(seen.contains("x-asked"), "{seen}");
    }
    Ok(())
}

#[test]
fn python_calls_python() -> Result<()> {
    check(Python, Python)
}

#[test]
fn python_calls_go() -> Result<()> {
    check(Python, Go)
}

#[test]
fn go_calls_python() -> Result<()> {
    check(Go, Python)
}

#[test]
fn go_calls_go() -> Result<()> {
    check(Go, Go)
}

#[test]
fn trailers_beyond_the_limit_fail_their_call_alone() -> Result<()> {
    // 60 KiB pass, 80 KiB are more than 64 KiB, and 400 KiB are more than is even measured. Neither app
    // would mind.
    let calls = [
        "big_trailers:61440",
        "big_trailers:81920",
        "unary:after",
        "big_trailers:409600",
        "unary:after",
    ];
    for (client, server) in [(Python, Go), (Go, Go), (Go, Python)] {
        let (_folder, _server, mesh) = grpc_mesh(server)?;
        let port = mesh.http("order-1")?.port();
        let answers = grpc_calls(client, port, "billing", &calls)?;
        for index in 0..4 {
            let trailer = answers[0]["trailing"][format!("x-big-{index}")].as_str();
            assert_eq!(trailer.map(str::len), Some(15_360), "{:.500}", answers[0]);
        }
        let (beyond, far_beyond) = (&answers[1], &answers[3]);
        assert_eq!(beyond["code"], 8, "RESOURCE_EXHAUSTED: {beyond:.500}");
        let told = beyond["details"].as_str().unwrap_or_default();
        assert!(told.ends_with("(answer_too_large)"), "{beyond:.500}");
        refusals(&mesh, "billing-1", "inbound", "answer_too_large", 1.0)?;
        assert!(
            !matches!(far_beyond["code"].as_u64(), None | Some(0)),
            "a failure: {far_beyond:.500}"
        );
        for after in [&answers[2], &answers[4]] {
            assert_eq!(after["messages"], json!(["after"]), "{after}");
        }
    }
    Ok(())
}

#[test]
fn request_trailers_beyond_the_limit_have_a_status() -> Result<()> {
    let (_folder, _server, mesh) = grpc_mesh(Python)?;
    let port = mesh.http("order-1")?.port();
    let call = |method: &str, between: Value| -> Result<Vec<Value>> {
        let steps = json!([
            {"headers": [
                [":method", "POST"],
                [":scheme", "http"],
                [":authority", "billing"],
                [":path", format!("/outrider.test.Echo/{method}")],
                ["content-type", "application/grpc"],
                ["te", "trailers"],
            ]},
            {"data": "\0\0\0\0\u{5}hello"},
            between,
            {"headers": [["x-large", "v".repeat(65 * 1024)]], "end": true},
            {"read": 1},
        ]);
        h2_raw(port, None, &steps)
    };
    // The one has not been answered yet, the other has.
    for (count, (method, between)) in [
        ("ClientStream", json!({"data": ""})),
        ("Bidi", json!({"read": 1, "until": "data"})),
    ]
    .into_iter()
    .enumerate()
    {
        let frames = call(method, between)?;
        assert_eq!(h2_field(&frames, 1, ":status"), Some("200"), "{frames:?}");
        let status = h2_field(&frames, 1, "grpc-status");
        assert_eq!(status, Some("8"), "RESOURCE_EXHAUSTED: {frames:?}");
        let told = h2_field(&frames, 1, "grpc-message").unwrap_or_default();
        assert!(told.ends_with("(header_too_large)"), "{told}");
        let expected = (count + 1) as f64;
        refusals(&mesh, "order-1", "outbound", "header_too_large", expected)?;
    }
    let after = grpc_calls(Python, port, "billing", &["unary:after"])?;
    assert_eq!(after[0]["messages"], json!(["after"]), "{after:?}");
    Ok(())
}

#[test]
fn whatever_reason_a_caller_resets_with_its_trailers_were_not_too_large() -> Result<()> {
    const ENHANCE_YOUR_CALM: u8 = 11;
    let (_folder, _server, mesh) = grpc_mesh(Python)?;
    let port = mesh.http("order-1")?.port();
    let streams = (0..20_u32).map(|index| 2 * index + 1);
    let reset = |stream: u32| {
        [
            json!({"stream": stream, "headers": [
                [":method", "POST"],
                [":scheme", "http"],
                [":authority", "billing"],
                [":path", "/outrider.test.Echo/Bidi"],
                ["content-type", "application/grpc"],
                ["te", "trailers"],
            ]}),
            json!({"stream": stream, "data": "\0\0\0\0\u{5}hello"}),
            json!({"read": stream, "until": "data"}),
            json!({"reset": stream, "code": ENHANCE_YOUR_CALM}),
        ]
    };
    let steps: Vec<Value> = streams.flat_map(reset).collect();
    h2_raw(port, None, &Value::from(steps))?;
    for (sidecar, reporter) in [("order-1", "source"), ("billing-1", "destination")] {
        until("every reset has been counted", PATIENCE, || {
            let metrics = mesh.metrics(sidecar)?;
            let told = metrics.sum("istio_requests_total", &[("reporter", reporter)]);
            Ok(told >= 20.0)
        })?;
        let reason = ("reason", "header_too_large");
        let refused = mesh
            .metrics(sidecar)?
            .sum("outrider_refusals_total", &[reason]);
        assert_eq!(refused, 0.0, "{sidecar}");
    }
    Ok(())
}

#[test]
fn a_deadline_passes_and_its_end_reaches_the_server() -> Result<()> {
    for (client, server) in [(Go, Python), (Python, Go)] {
        let (_folder, _server, mesh) = grpc_mesh(server)?;
        let port = mesh.http("order-1")?.port();
        let answers = grpc_calls(
            client,
            port,
            "billing",
            &["remaining:9", "deadline:0.3", "was_cancelled"],
        )?;
        let remaining: f64 = answers[0]["messages"][0]
            .as_str()
            .context("milliseconds")?
            .parse()?;
        assert!(
            (1.0..=9_000.0).contains(&remaining),
            "{remaining} ms of 9 s are left"
        );
        assert_eq!(answers[1]["code"], 4, "DEADLINE_EXCEEDED: {}", answers[1]);
        assert_eq!(
            answers[2]["messages"],
            json!(["yes"]),
            "the server saw the end"
        );
    }
    Ok(())
}

#[test]
fn a_refusal_is_permission_denied() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = grpc_server(Go, folder.path())?;
    let rules = format!(
        "- name: unary-only\n  sources: [{}]\n  grpc: [{{service: outrider.test.Echo, method: Unary}}]",
        account("order")
    );
    let mesh = Mesh::pair(server.port, Some("grpc"))?
        .setting("defaultDeny", true)
        .file("policy.yaml", policy("billing", "billing", "ALLOW", &rules))
        .start()?;
    let port = mesh.http("order-1")?.port();
    for (client, seen) in [(Python, 1.0), (Go, 2.0)] {
        let calls = ["unary:allowed", "server_stream:1", "bidi:1", "unary:again"];
        let answers = grpc_calls(client, port, "billing", &calls)?;
        let codes: Vec<&Value> = answers.iter().map(|answer| &answer["code"]).collect();
        assert_eq!(codes, [0, 7, 7, 0], "{client:?}: {answers:#?}");
        let details = answers[1]["details"].as_str().context("details")?;
        assert!(details.contains("authorization_denied"), "{details}");
        assert_eq!(answers[0]["messages"], json!(["allowed"]));
        refusals(
            &mesh,
            "billing-1",
            "inbound",
            "authorization_denied",
            2.0 * seen,
        )?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_reached_has_a_grpc_code() -> Result<()> {
    let (_folder, mut server, mut mesh) = grpc_mesh(Go)?;
    let port = mesh.http("order-1")?.port();
    let code = |authority: &str| -> Result<Value> {
        Ok(grpc_calls(Go, port, authority, &["unary:x"])?[0]["code"].clone())
    };
    assert_eq!(code("nowhere")?, 12, "UNIMPLEMENTED");
    assert_eq!(code("billing")?, 0);
    server.process.kill()?;
    assert_eq!(code("billing")?, 14, "the app is gone: UNAVAILABLE");
    mesh.process("billing-1")?.kill()?;
    assert_eq!(code("billing")?, 14, "the sidecar is gone: UNAVAILABLE");
    Ok(())
}

#[test]
fn the_status_of_calls_is_counted() -> Result<()> {
    let (_folder, _server, mesh) = grpc_mesh(Python)?;
    let port = mesh.http("order-1")?.port();
    grpc_calls(
        Go,
        port,
        "billing",
        &["unary:x", "unary:y", "fail:5:none", "server_stream:3"],
    )?;
    for (workload, reporter) in [("order-1", "source"), ("billing-1", "destination")] {
        let telemetry = mesh.sidecar(workload)?.workload.telemetry_port;
        for (status, count) in [("0", 3.0), ("5", 1.0)] {
            let labels = [
                ("request_protocol", "grpc"),
                ("response_code", "200"),
                ("grpc_response_status", status),
                ("reporter", reporter),
            ];
            metrics::reaches(telemetry, "istio_requests_total", &labels, count)?;
        }
    }
    Ok(())
}

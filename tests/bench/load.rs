//! Load generators of others: wrk for HTTP/1.1, h2load for HTTP/2, grpc-go for streams. All end by
//! themselves after the time that they are given.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::process::{command, run};
use mesh_tests::programs::{find, grpc_go};

use crate::results::Sample;

/// What a program may take longer than it was told.
const GRACE: Duration = Duration::from_secs(20);

/// wrk: so many connections with one request each at a time.
pub(crate) fn wrk(
    address: SocketAddr,
    connections: u32,
    path: &str,
    close: bool,
    time: Duration,
) -> Result<Sample> {
    let mut wrk = command(&find("wrk", "wrk")?)?;
    wrk_by(&mut wrk, address, connections, path, close, time)
}

/// The same with a command that starts wrk elsewhere.
pub(crate) fn wrk_by(
    wrk: &mut Command,
    address: SocketAddr,
    connections: u32,
    path: &str,
    close: bool,
    time: Duration,
) -> Result<Sample> {
    wrk.args(["-t1", "--latency", "--timeout", "10s"])
        .args(["-H", "Host: billing", "-c", &connections.to_string()])
        .args(["-d", &format!("{}s", time.as_secs().max(1))]);
    if close {
        wrk.args(["-H", "Connection: close"]);
    }
    wrk.arg(format!("http://{address}{path}"));
    let told = run(wrk, time + GRACE)?.success()?.stdout;
    let bad = told
        .lines()
        .find(|line| line.contains("Non-2xx") || (line.contains("Socket errors") && !close));
    ensure!(bad.is_none(), "{told}");
    let after = |label: &str| {
        let line = told
            .lines()
            .find(|line| line.trim_start().starts_with(label));
        line.and_then(|line| line.trim_start()[label.len()..].split_whitespace().next())
            .with_context(|| format!("{label} in {told}"))
    };
    let mut sample = Sample::new();
    sample.insert("requests_per_second", after("Requests/sec:")?.parse()?);
    for (metric, label) in [("p50_us", "50%"), ("p99_us", "99%")] {
        sample.insert(metric, micros(after(label)?)?);
    }
    Ok(sample)
}

/// "1.23ms", "456.00us", "1.20s"
fn micros(text: &str) -> Result<f64> {
    let (number, factor) = match text {
        _ if text.ends_with("us") => (&text[..text.len() - 2], 1.0),
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1e3),
        _ => (text.trim_end_matches('s'), 1e6),
    };
    Ok(number
        .parse::<f64>()
        .with_context(|| format!("a time, not {text:?}"))?
        * factor)
}

/// h2load: 8 connections with 32 streams each; unary gRPC if there is the file of a request.
pub(crate) fn h2load(address: SocketAddr, request: Option<&str>, time: Duration) -> Result<Sample> {
    let mut load = command(&find("h2load", "nghttp2-client")?)?;
    load.args(["-c", "8", "-m", "32"])
        .args(["-D", &time.as_secs().max(1).to_string()]);
    let path = match request {
        None => "/",
        Some(request) => {
            load.args(["-d", request, "-H", "content-type: application/grpc"])
                .args(["-H", "te: trailers"]);
            "/grpc/outrider.bench.Echo/Unary"
        }
    };
    load.arg(format!("http://{address}{path}"));
    let told = run(&mut load, time + GRACE)?.success()?.stdout;
    ensure!(told.contains(" 0 failed, 0 errored"), "{told}");
    ensure!(told.contains(" 0 3xx, 0 4xx, 0 5xx"), "{told}");
    let rate = told
        .lines()
        .find_map(|line| line.strip_prefix("finished in ")?.split(", ").nth(1))
        .and_then(|rate| rate.strip_suffix(" req/s"))
        .with_context(|| format!("a rate in {told}"))?;
    Ok(Sample::from([("requests_per_second", rate.parse()?)]))
}

/// Messages that go both ways on 32 gRPC streams, one at a time on each: how many came back.
pub(crate) fn grpc_streams(address: SocketAddr, time: Duration) -> Result<(Sample, u64)> {
    let mut load = command(&grpc_go()?)?;
    load.arg("streams")
        .args(["--port", &address.port().to_string()])
        .args(["--authority", "billing", "--streams", "32"])
        .args(["--milliseconds", &time.as_millis().to_string()]);
    let told = run(&mut load, time + GRACE)?.success()?.stdout;
    let messages: u64 = told.trim().parse().with_context(|| told.clone())?;
    let rate = messages as f64 / time.as_secs_f64();
    Ok((Sample::from([("requests_per_second", rate)]), messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_as_wrk_writes_them() {
        let read = ["12.50us", "1.25ms", "2.00s"].map(|text| micros(text).unwrap());
        assert_eq!(read, [12.5, 1250.0, 2_000_000.0]);
        assert!(micros("soon").is_err());
    }
}

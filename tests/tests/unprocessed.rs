//! What an app in HTTP/2 says that it has not looked at.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;
use mesh_tests::Mesh;
use mesh_tests::peers::curl_run;

use crate::common::refusals;

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
/// `:status: 200`, of the static table (RFC 7541, appendix A).
const OK: u8 = 0x88;

struct Frame {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: Vec<u8>,
}

fn read(stream: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload)?;
    Ok(Frame {
        kind,
        flags,
        stream: id,
        payload,
    })
}

fn write(to: &mut TcpStream, kind: u8, flags: u8, id: [u8; 4], payload: &[u8]) -> io::Result<()> {
    let length = u8::try_from(payload.len()).map_err(io::Error::other)?;
    let head = [&[0, 0, length, kind, flags], &id[..]].concat();
    to.write_all(&[&head, payload].concat())
}

/// Refuses the first of all requests, and answers the others when they have ended.
fn serve(mut stream: TcpStream, requests: &AtomicUsize) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE])?;
    write(&mut stream, SETTINGS, 0, [0; 4], &[])?;
    let mut refused = None;
    loop {
        let frame = read(&mut stream)?;
        let id = frame.stream;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => write(&mut stream, SETTINGS, ACK, id, &[])?,
            PING if frame.flags & ACK == 0 => {
                write(&mut stream, PING, ACK, id, &frame.payload)?;
            }
            HEADERS if requests.fetch_add(1, Ordering::Relaxed) == 0 => {
                refused = Some(id);
                write(&mut stream, RST_STREAM, 0, id, &REFUSED_STREAM)?;
            }
            HEADERS | DATA if frame.flags & END_STREAM != 0 && refused != Some(id) => {
                write(&mut stream, HEADERS, END_STREAM | END_HEADERS, id, &[OK])?;
            }
            _ => {}
        }
    }
}

/// Its port, and how many requests have come.
fn app() -> Result<(u16, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let requests = Arc::clone(&counted);
            // It ends when the sidecar ends it.
            thread::spawn(move || serve(stream, &requests));
        }
    });
    Ok((port, requests))
}

fn call(mesh: &Mesh, more: &[&str]) -> Result<String> {
    let url = format!("http://{}/", mesh.http("order-1")?);
    let call = ["--http2-prior-knowledge", "-i", "-H", "Host: billing"];
    let arguments = [&call[..], more, &[&url]].concat();
    Ok(curl_run(&arguments)?.success()?.stdout)
}

#[test]
fn a_post_that_the_app_refuses_is_sent_again_by_the_callers_sidecar() -> Result<()> {
    let (port, requests) = app()?;
    let mesh = Mesh::pair(port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    let answer = call(&mesh, &["-d", "once"])?;
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(answer.contains("retried=\"unprocessed\""), "{answer}");
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    refusals(&mesh, "billing-1", "inbound", "app_refused", 1.0)
}

#[test]
fn a_get_that_the_app_refuses_is_sent_again_by_its_own_sidecar() -> Result<()> {
    let (port, requests) = app()?;
    let mesh = Mesh::pair(port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    let answer = call(&mesh, &[])?;
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(!answer.contains("proxy-status"), "{answer}");
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    Ok(())
}

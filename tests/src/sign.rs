//! Asking a control plane for a certificate, by curl: what a sidecar asks, and what it never would.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::mesh::Mesh;
use crate::peers::curl_run;
use crate::process::{command, run};
use crate::programs::find;
use crate::wait::PATIENCE;

/// The answer to `Identity.Sign`.
#[derive(Debug)]
pub struct Signed {
    /// gRPC status.
    pub code: u16,
    pub message: String,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// Sends a signing request (DER) with a token, if there is one, to the control plane of a mesh.
pub fn sign(mesh: &Mesh, token: Option<&str>, request: &[u8]) -> Result<Signed> {
    sign_at(&mesh.control_plane_address().to_string(), token, request)
}

/// The same, to the control plane that listens at an address.
pub fn sign_at(control_plane: &str, token: Option<&str>, request: &[u8]) -> Result<Signed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    fs::write(path("request"), frame(request)?)?;
    let bearer = token.map(|token| format!("authorization: Bearer {token}"));
    let body = format!("@{}", path("request").display());
    let (answer, heads) = (
        path("answer").display().to_string(),
        path("heads").display().to_string(),
    );
    let url = format!("https://{control_plane}/outrider.v1.Identity/Sign");
    let mut arguments = vec![
        "-k",
        "--http2",
        "-o",
        &answer,
        "-D",
        &heads,
        "--data-binary",
        &body,
    ];
    for header in ["content-type: application/grpc", "te: trailers"] {
        arguments.extend(["-H", header]);
    }
    if let Some(bearer) = &bearer {
        arguments.extend(["-H", bearer]);
    }
    arguments.push(&url);
    let finished = curl_run(&arguments)?;
    let heads = fs::read_to_string(path("heads")).unwrap_or_default();
    let field = |name: &str| {
        let mut lines = heads.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let code = field("grpc-status")
        .with_context(|| format!("a gRPC status: {heads}{}", finished.output()))?
        .parse()?;
    let message = field("grpc-message").unwrap_or_default();
    let answer = fs::read(path("answer")).unwrap_or_default();
    Ok(Signed {
        code,
        message,
        chain: certificates(&answer)?,
    })
}

/// The body of a call of `Identity.Sign` with this request (DER).
pub fn frame(request: &[u8]) -> Result<Vec<u8>> {
    let mut message = vec![0x0a];
    varint(request.len(), &mut message);
    message.extend(request);
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend(message);
    Ok(frame)
}

fn varint(mut number: usize, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The certificates in the body of an answer of `Identity.Sign`, the leaf first: field 1,
/// `certificate_chain_der`.
pub fn certificates(answer: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut rest = answer.get(5..).unwrap_or_default();
    let mut chain = Vec::new();
    while let [tag, after @ ..] = rest {
        let (mut length, mut shift, mut after) = (0, 0, after);
        while let [byte, more @ ..] = after {
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            after = more;
            if byte & 0x80 == 0 {
                break;
            }
        }
        ensure!(after.len() >= length, "a field within the message");
        let (field, more) = after.split_at(length);
        if *tag == 0x0a {
            chain.push(field.to_vec());
        }
        rest = more;
    }
    Ok(chain)
}

/// What `openssl x509` says of a certificate (DER).
pub fn describe(certificate: &[u8], folder: &Path, options: &[&str]) -> Result<String> {
    let file = tempfile::NamedTempFile::new_in(folder)?;
    fs::write(file.path(), certificate)?;
    let mut openssl = command(&find("openssl", "openssl")?)?;
    openssl
        .args(["x509", "-inform", "DER", "-noout"])
        .args(options)
        .arg("-in")
        .arg(file.path());
    Ok(run(&mut openssl, PATIENCE)?.success()?.stdout)
}

/// The names in a certificate, as openssl writes them: `URI:spiffe://…, DNS:…`.
pub fn names(certificate: &[u8], folder: &Path) -> Result<String> {
    let text = describe(certificate, folder, &["-ext", "subjectAltName"])?;
    let names = text
        .lines()
        .nth(1)
        .with_context(|| format!("names: {text}"))?;
    Ok(names.trim().to_owned())
}

//! `outrider-proxy wait`: returns when the sidecar of this pod is ready. A classic sidecar has it as
//! its `postStart` hook, which the kubelet waits for before it starts the app.
//!
//! It runs beside the sidecar, as a process of its own, and shares nothing with it but loopback.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use outrider_api::duration;

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(50);
/// One question takes no longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is a line, with headers.
const ANSWER_MAX: u64 = 4096;

/// Wait until the sidecar that runs beside this is ready
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outrider-proxy wait
  outrider-proxy wait --timeout 30s

Exit status: 0 it is ready, 1 it was not in time.")]
pub struct WaitArgs {
    /// The sidecar's metrics and health; it is asked on loopback
    #[arg(
        long,
        env = "OUTRIDER_TELEMETRY",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:15020"
    )]
    pub telemetry: SocketAddr,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::args::duration)]
    pub timeout: Duration,
}

/// Why there is nothing to wait for any longer.
#[derive(Debug, thiserror::Error)]
#[error("the sidecar is not ready after {}: {last}", duration::format(*.after))]
pub struct NotReady {
    after: Duration,
    last: String,
}

/// Asks until it is ready.
///
/// # Errors
/// It was not in time; what it said last.
pub fn run(args: &WaitArgs) -> Result<(), NotReady> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.telemetry.port()));
    let start = Instant::now();
    loop {
        let last = match ask(address) {
            Ok(answer) if is_ready(&answer) => return Ok(()),
            Ok(answer) => reason(&answer).to_owned(),
            Err(error) => error.to_string(),
        };
        if start.elapsed() >= args.timeout {
            let after = args.timeout;
            return Err(NotReady { after, last });
        }
        std::thread::sleep(AGAIN);
    }
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_ready(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}

/// The body, which says why not.
fn reason(answer: &str) -> &str {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    body.lines().next().unwrap_or("it does not answer")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn wait(port: u16, timeout: Duration) -> Result<(), String> {
        let args = WaitArgs {
            telemetry: SocketAddr::from(([0, 0, 0, 0], port)),
            timeout,
        };
        run(&args).map_err(|error| error.to_string())
    }

    fn serve(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a question");
                let mut question = [0; 1024];
                let length = stream.read(&mut question).expect("a question");
                assert!(question[..length].starts_with(b"GET /ready HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).expect("an answer");
            }
        });
        port
    }

    const READY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n";
    const NOT_YET: &str = "HTTP/1.1 503 Service Unavailable\r\n\r\nno policy yet\n";

    #[test]
    fn it_returns_when_the_sidecar_is_ready() {
        let port = serve(&[NOT_YET, "", "nonsense", READY]);
        assert_eq!(wait(port, Duration::from_secs(30)), Ok(()));
    }

    #[test]
    fn it_gives_up_and_says_what_was_missing() {
        let port = serve(&[NOT_YET]);
        let error = wait(port, Duration::ZERO).expect_err("not ready");
        assert_eq!(error, "the sidecar is not ready after 0s: no policy yet");
    }

    #[test]
    fn nobody_there_is_not_ready() {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let error = wait(port, Duration::from_millis(1)).expect_err("nobody");
        assert!(error.contains("refused"), "{error}");
    }
}

use proptest::prelude::*;

use super::*;

/// How far the bytes pass, unless they are refused.
fn read(bytes: &[u8]) -> Result<usize, Violation> {
    refusal(Framing::default().advance(bytes))
}

fn refusal(progress: Progress) -> Result<usize, Violation> {
    match progress.stop {
        Stop::Violation(violation) => Err(violation),
        Stop::End | Stop::Incomplete | Stop::Undecided => Ok(progress.passed),
    }
}

#[test]
fn ordinary_requests_pass() {
    for good in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\na;x=\"y\"\r\n0123456789\r\n0\r\nChecksum: 1\r\n\r\n",
        b"\r\nGET / HTTP/1.0\r\n\r\n",
    ] {
        assert_eq!(read(good), Ok(good.len()), "{}", good.escape_ascii());
    }
}

#[test]
fn smuggling_is_refused() {
    use Violation::*;
    let cases: [(&[u8], Violation); 29] = [
        (b"GET  / HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET / HTTP/2.0\r\n\r\n", RequestLine),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", RequestLine),
        (b"GET /\xff HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeaderName),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", HeaderName),
        (b"GET / HTTP/1.1\r\nHost: a\x01\r\n\r\n", HeaderValue),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            LengthWithEncoding,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            LengthWithEncoding,
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            RepeatedLength,
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\ncontent-length: 4\r\n\r\n",
            RepeatedLength,
        ),
        (b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", BadLength),
        (b"POST / HTTP/1.1\r\nContent-Length: 5,5\r\n\r\n", BadLength),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", BadLength),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            BadLength,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            BadEncoding,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            BadEncoding,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
            BadEncoding,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadEncoding,
        ),
        (
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            EncodingInHttp10,
        ),
        (b"POST / HTTP/1.0\r\nHost: a\r\n\r\nbody", UnframedBody),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", LineEnd),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", LineEnd),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", LineEnd),
        (b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", LineEnd),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            FoldedHeader,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n",
            LineEnd,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd",
            BadChunk,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            BadChunk,
        ),
    ];
    for (bytes, violation) in cases {
        assert_eq!(read(bytes), Err(violation), "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_ends() {
    let head = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; MAX_HEAD]].concat();
    assert_eq!(read(&head), Err(Violation::TooLarge));
    let extension = [
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;".to_vec(),
        vec![b'a'; 300],
    ]
    .concat();
    assert_eq!(read(&extension), Err(Violation::BadChunk));
}

#[test]
fn more_than_a_hundred_headers_are_refused() {
    let request = |count| {
        let headers: String = (0..count).map(|index| format!("X{index}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\n{headers}\r\n").into_bytes()
    };
    assert_eq!(read(&request(100)), Ok(request(100).len()));
    assert_eq!(read(&request(101)), Err(Violation::TooLarge));
}

#[test]
fn a_head_passes_whole_or_not_at_all() {
    let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut framing = Framing::default();
    for cut in 1..whole.len() {
        let progress = framing.advance(&whole[..cut]);
        assert_eq!(
            progress,
            Progress {
                passed: 0,
                stop: Stop::Incomplete
            },
            "{cut}"
        );
    }
    assert_eq!(
        framing.advance(whole),
        Progress {
            passed: whole.len(),
            stop: Stop::End
        }
    );
}

#[test]
fn nothing_after_an_upgrade_is_read_until_it_is_decided() {
    let request = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let early = [&request[..], b"\x81\x00"].concat();
    let undecided = Progress {
        passed: request.len(),
        stop: Stop::Undecided,
    };
    let mut framing = Framing::default();
    assert_eq!(framing.advance(&early), undecided);
    assert!(framing.is_undecided());

    framing.decide(true);
    assert_eq!(refusal(framing.advance(b"\x81\x00anything\n")), Ok(11));

    let mut framing = Framing::default();
    assert_eq!(framing.advance(&early), undecided);
    framing.decide(false);
    let second = framing.advance(b"GET / HTTP/1.1\nHost: a\r\n\r\n");
    assert_eq!(refusal(second), Err(Violation::LineEnd));
}

/// Gives `stream` in the cuts that come, as a connection does: what did not pass is given again.
fn read_in_cuts(stream: &[u8], cuts: &[usize]) -> (usize, Option<Violation>) {
    let mut framing = Framing::default();
    let (mut passed, mut end) = (0, 0);
    for cut in cuts.iter().copied().chain(std::iter::repeat(1)) {
        if end == stream.len() {
            break;
        }
        end = (end + cut).min(stream.len());
        loop {
            let progress = framing.advance(&stream[passed..end]);
            passed += progress.passed;
            match progress.stop {
                Stop::Violation(violation) => return (passed, Some(violation)),
                Stop::Undecided => framing.decide(false),
                Stop::End | Stop::Incomplete => break,
            }
        }
    }
    (passed, None)
}

proptest! {
    /// However the bytes are cut into reads, as much passes and the verdict is the same.
    #[test]
    fn cuts_change_nothing(cuts in proptest::collection::vec(1usize..9, 0..60), which in 0usize..6) {
        let stream: &[u8] = [
            &b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"[..],
            b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcdePOST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\na",
            b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r0\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\nB: \r\n\r\n\r\nGET / HTTP/1.1\r\nUpgrade: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ][which];
        prop_assert_eq!(read_in_cuts(stream, &cuts), read_in_cuts(stream, &[stream.len()]));
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_in_cuts(&bytes, &[7; 60]);
    }
}

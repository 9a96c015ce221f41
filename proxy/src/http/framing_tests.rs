use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<usize, Violation> {
    Framing::default().advance(bytes)
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
    let cases: [(&[u8], Violation); 22] = [
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
fn nothing_after_an_upgrade_is_read_until_it_is_decided() {
    let request = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let early = [&request[..], b"\x81\x00"].concat();
    let mut framing = Framing::default();
    assert_eq!(framing.advance(&early), Ok(request.len()));
    assert!(framing.is_undecided());

    framing.decide(true);
    assert_eq!(framing.advance(b"\x81\x00anything\n"), Ok(11));

    let mut framing = Framing::default();
    assert_eq!(framing.advance(&early), Ok(request.len()));
    framing.decide(false);
    assert_eq!(
        framing.advance(b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
        Err(Violation::LineEnd)
    );
}

proptest! {
    /// However the bytes are cut into reads, the verdict is the same.
    #[test]
    fn cuts_change_nothing(cuts in proptest::collection::vec(1usize..9, 0..60), which in 0usize..6) {
        let stream: &[u8] = [
            &b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"[..],
            b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcdePOST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\na",
            b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r0\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\nB: \r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ][which];
        let whole = Framing::default().advance(stream).map(|_| ());
        let mut framing = Framing::default();
        let mut at = 0;
        let mut verdict = Ok(());
        for cut in cuts.into_iter().chain(std::iter::repeat(1)) {
            if at == stream.len() { break; }
            let end = (at + cut).min(stream.len());
            match framing.advance(&stream[at..end]) {
                Ok(taken) => prop_assert_eq!(taken, end - at),
                Err(violation) => { verdict = Err(violation); break; }
            }
            at = end;
        }
        prop_assert_eq!(verdict, whole);
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut framing = Framing::default();
        for part in bytes.chunks(7) {
            if framing.advance(part).is_err() { break; }
        }
    }
}

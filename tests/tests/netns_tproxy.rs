//! Interception that keeps the client's address for the app.

use anyhow::Result;
use mesh_tests::shop::{ANSWER, Settings, Shop};

const TPROXY: Settings<'_> = Settings {
    mesh: ", defaultDeny: false",
    web: ", interception: {mode: TProxy}, mtls: Permissive",
    instances: 1,
    serves: true,
};

#[test]
fn the_app_sees_the_address_of_its_callers() -> Result<()> {
    let shop = Shop::start("seen", TPROXY)?;
    let mesh = &shop.mesh;
    // In turn: a warm connection to the app is that of one client.
    for _ in 0..3 {
        for caller in ["client-1", "other-1"] {
            let own = &mesh.addresses("client-1", caller)?[0];
            for url in ["http://web/", "http://web:90/", "http://web-1:8080/"] {
                let answer = mesh.curl(caller, &[url])?;
                assert_eq!(answer.status, 200, "{url}: {answer:?}");
                assert_eq!(answer.body, format!("{own} {ANSWER}\n"), "{caller} {url}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_app_sees_the_address_of_plaintext_clients() -> Result<()> {
    let shop = Shop::start("seen-plain", TPROXY)?;
    let mesh = &shop.mesh;
    for instance in mesh.addresses("client-1", "web-1")? {
        // Of the bridge, which is the first host of the range.
        let (own, at) = match instance.contains(':') {
            true => ("fd4f:7574:7269:88::1", format!("[{instance}]")),
            false => ("10.201.0.1", instance),
        };
        for port in [8080, 9090] {
            let answer = mesh.curl_from_outside(&[&format!("http://{at}:{port}/")])?;
            assert_eq!(answer.status, 200, "{at}:{port}: {answer:?}");
            assert_eq!(answer.body, format!("{own} {ANSWER}\n"), "{at}:{port}");
        }
    }
    // What the sidecar sends itself has its own address: calls of others are none the worse.
    assert_eq!(shop.call()?, 200);
    Ok(())
}

#[test]
fn with_redirect_the_app_sees_its_sidecar() -> Result<()> {
    let settings = Settings {
        web: ", mtls: Permissive",
        ..TPROXY
    };
    let shop = Shop::start("unseen", settings)?;
    let own = &shop.mesh.addresses("client-1", "web-1")?[0];
    let answer = shop.mesh.curl("client-1", &["http://web/"])?;
    assert_eq!(answer.body, format!("{own} {ANSWER}\n"));
    Ok(())
}

//! Whatever is sent to the injector, it answers; and what it has given a sidecar it leaves alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_api::annotations::SidecarKind;
use outrider_control_plane::inject::{Left, Outcome, Settings, apply, inject};
use outrider_control_plane::webhook::review::Request;

fuzz_target!(|body: &[u8]| {
    let Ok(request) = Request::read(body) else { return };
    let Ok(trust_domain) = "shop.example".parse() else { return };
    let settings = Settings {
        image: Settings::default_image(None),
        image_pull_policy: None,
        control_plane: Settings::default_control_plane("outrider-system"),
        trust_domain,
        namespace: "outrider-system".to_owned(),
        sidecar: SidecarKind::Native,
    };
    let once = inject(&request.object, &request.namespace, &settings);
    if let Ok(Outcome::Injected { patch, .. }) = once {
        let mut pod = request.object;
        apply(&mut pod, &patch).expect("the patch is of this pod");
        let again = inject(&pod, &request.namespace, &settings);
        assert_eq!(again, Ok(Outcome::Left(Left::AlreadyInjected)));
    }
});

//! What is taken for a model says the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_api::model::address::Address;
use outrider_api::model::{Destination, Workload};
use outrider_api::proto::{self, discovery_response::Resource};
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let Ok(response) = proto::DiscoveryResponse::decode(bytes) else { return };
    match response.resource {
        Some(Resource::Workload(wire)) => {
            let Ok(model) = Workload::try_from(wire) else { return };
            let again = Workload::try_from(proto::Workload::from(&model));
            assert!(again.is_ok_and(|again| again == model));
        }
        Some(Resource::Destination(wire)) => {
            let Ok(model) = Destination::try_from(wire) else { return };
            let again = Destination::try_from(proto::Destination::from(&model));
            assert!(again.is_ok_and(|again| again == model));
        }
        Some(Resource::Address(wire)) => {
            let Ok(model) = Address::try_from(wire) else { return };
            let again = Address::try_from(proto::Address::from(&model));
            assert!(again.is_ok_and(|again| again == model));
        }
        Some(Resource::Missing(_) | Resource::Withdrawn(_)) | None => {}
    }
});

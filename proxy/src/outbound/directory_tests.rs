use outrider_api::model::Endpoint;
use outrider_api::model::traffic::TrafficSettings;

use super::*;
use crate::telemetry::edge::Party;
use crate::tls::ClientTls;

/// A workload by itself.
fn instance(account: &str) -> DestinationState {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let endpoint = Endpoint {
        namespace: "shop".to_owned(),
        workload: format!("{account}-1"),
        app: account.to_owned(),
        zone: None,
        id: id.parse().expect("an identity"),
        mesh_address: "10.244.0.7:15008".parse().expect("an address"),
        target_ports: Vec::new(),
    };
    DestinationState::Ready(Arc::new(Destination {
        service: ServiceName::new("shop", account).expect("a name"),
        ports: Vec::new(),
        endpoints: vec![endpoint],
        routes: Vec::new(),
        traffic: TrafficSettings::default(),
        any_port: true,
    }))
}

/// Each connection asks whose its address is, and only then for what is compiled.
#[tokio::test]
async fn an_address_is_that_of_whoever_has_it_now() {
    let directory = Directory::new(mpsc::channel(1).0);
    let address = IpAddr::from([10, 244, 0, 7]);
    let (told, state) = watch::channel(instance("before"));
    let subject = Subject::Address(address);
    let slot = Rc::new(Slot::new(subject.clone(), state));
    directory
        .slots
        .borrow_mut()
        .insert(subject, Rc::clone(&slot));
    let (metrics, party) = (Arc::new(Metrics::new().expect("metrics")), Party::unknown());
    let tls = Rc::new(ClientTls::new(watch::channel(None).1));
    let caller = Caller {
        metrics: &metrics,
        tls: &tls,
        party: &party,
        zone: None,
    };
    let connected = async || {
        let owner = directory.owner(address).await.expect("it is answered");
        assert!(matches!(owner, Owner::Instance(_)), "{owner:?}");
        match slot.current() {
            Some(service) => service,
            None => {
                let compiled = directory.service(&slot, caller).await;
                compiled.expect("it is compiled")
            }
        }
    };
    let before = connected().await;
    let open = before
        .state
        .usage
        .request(&before.traffic().limits)
        .expect("room");
    assert!(Rc::ptr_eq(&before, &connected().await), "nothing is new");

    told.send_replace(instance("after"));
    let after = connected().await;
    let expected = "spiffe://cluster.local/ns/shop/sa/after";
    assert_eq!(after.endpoints()[0].model.id.to_string(), expected);
    assert_eq!(after.state.name.label(), "shop/after");
    // What is open to the one before is none of its business.
    assert_eq!(after.state.usage.requests(), (0, 0));
    assert_eq!(directory.states.borrow().len(), 2);
    drop(open);
}

#[test]
fn what_is_used_is_not_let_go() {
    let directory = Directory::new(mpsc::channel(1).0);
    let (_state, state) = watch::channel(DestinationState::Pending);
    let name = ServiceName::new("shop", "billing").expect("a name");
    let subject = Subject::Service(name);
    let slot = Rc::new(Slot::new(subject.clone(), state));
    let now = slot.used.get();
    directory
        .slots
        .borrow_mut()
        .insert(subject, Rc::clone(&slot));
    slot.current();
    drop(slot);
    directory.sweep(now + IDLE);
    assert_eq!(directory.slots.borrow().len(), 1);
    directory.sweep(now + 2 * IDLE);
    assert!(directory.slots.borrow().is_empty());
}

#[tokio::test]
async fn addresses_outside_the_mesh_take_no_place_of_those_within() {
    let (subscriptions, mut subscribed) = mpsc::channel::<Subscription>(1);
    let control_plane = async move {
        let within = IpAddr::from([10, 255, 0, 1]);
        while let Some(Subscription { subject, reply }) = subscribed.recv().await {
            let state = if matches!(subject, Subject::Address(address) if address == within) {
                DestinationState::Alias(ServiceName::new("shop", "billing").expect("a name"))
            } else {
                DestinationState::Missing
            };
            let _ = reply.send(watch::Sender::new(state).subscribe());
        }
    };
    let within = IpAddr::from([10, 255, 0, 1]);
    let directory = Directory::new(subscriptions);
    let asking = async {
        directory.address(within).await.expect("room");
        for number in 0..2 * MAX_SLOTS {
            let bits = u32::try_from(number).expect("few");
            let address = std::net::Ipv4Addr::from_bits(bits).into();
            directory.address(address).await.expect("room");
        }
        let slots = directory.slots.borrow();
        assert!(slots.len() <= MAX_SLOTS);
        assert!(slots.contains_key(&Subject::Address(within)));
    };
    tokio::select! {
        () = control_plane => unreachable!("it is asked"),
        () = asking => {}
    }
}

#[test]
fn what_is_open_to_a_service_that_is_gone_is_counted_until_it_ends() {
    let directory = Directory::new(mpsc::channel(1).0);
    let metrics = Metrics::new().expect("metrics");
    let name = ServiceName::new("shop", "billing").expect("a name");
    let settings = TrafficSettings::default();
    let state = Rc::new(State::new(&name, &settings.budget, Instant::now()));
    directory.states.borrow_mut().push(Rc::clone(&state));
    let active = || {
        directory.tell(&metrics);
        let active = &metrics.traffic.active_requests;
        active.with_label_values(&["shop/billing"]).get()
    };
    let open = state.usage.request(&settings.limits).expect("room");
    assert_eq!(active(), 1);
    drop(state);
    assert_eq!(active(), 1);
    drop(open);
    assert_eq!(active(), 0);
    assert!(directory.states.borrow().is_empty());
}

/// Whoever uses a destination for the first time does not wait longer for a control plane that cannot be
/// reached, whatever the part of the sidecar that asks it is waiting for itself.
#[tokio::test(start_paused = true)]
async fn the_first_answer_is_waited_for_no_longer_than_that() {
    let within = IpAddr::from([10, 255, 0, 1]);
    for late in [None, Some(FIRST_ANSWER / 2)] {
        let (subscriptions, mut subscribed) = mpsc::channel::<Subscription>(1);
        let directory = Directory::new(subscriptions);
        let pending = watch::Sender::new(DestinationState::Pending);
        let control_plane = async {
            let asked = subscribed.recv().await.expect("it is asked");
            if let Some(late) = late {
                tokio::time::sleep(late).await;
                let _ = asked.reply.send(pending.subscribe());
            }
            std::future::pending().await
        };
        let begun = tokio::time::Instant::now();
        let refused = tokio::select! {
            () = control_plane => unreachable!("it does not end"),
            owner = directory.owner(within) => owner.expect_err("nothing is known"),
        };
        assert_eq!(refused, Refusal::DestinationUnresolved);
        let took = begun.elapsed();
        let most = FIRST_ANSWER + Duration::from_millis(2);
        assert!((FIRST_ANSWER..=most).contains(&took), "{took:?}");
    }
}

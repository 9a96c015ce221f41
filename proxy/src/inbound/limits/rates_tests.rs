use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn peer(name: &str) -> Peer {
    verified(&format!("spiffe://cluster.local/ns/shop/sa/{name}"))
}

fn verified(id: &str) -> Peer {
    Peer::Verified(id.parse().expect("a SPIFFE ID"))
}

fn limit(name: &str, requests: u32, ports: &[u16]) -> RateLimit {
    RateLimit {
        policy: "shop/billing".to_owned(),
        name: name.to_owned(),
        sources: None,
        ports: ports.to_vec(),
        requests,
        interval: SECOND,
        burst: requests,
    }
}

struct World {
    metrics: Metrics,
    registry: Registry,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            metrics: Metrics::new().expect("metrics"),
            registry: Registry::default(),
            now: Instant::now(),
        }
    }

    fn limit(&self, model: &RateLimit) -> Arc<Limit> {
        self.registry.limit(model, &self.metrics, self.now)
    }

    fn applying(&self, models: &[RateLimit], name: &str) -> Vec<Applying> {
        let of = |model| Applying::new(&self.limit(model), &peer(name), self.now);
        models.iter().map(of).collect()
    }

    fn count(&self, limit: &str, result: &str) -> u64 {
        let labels = ["shop/billing", limit, result];
        self.metrics.rate_limits.with_label_values(&labels).get()
    }
}

fn taken(applying: &[Applying], port: u16, now: Instant) -> usize {
    (0..1000)
        .take_while(|_| take(applying, port, now).is_ok())
        .count()
}

#[test]
fn each_identity_has_a_bucket_whatever_its_connection() {
    let world = World::new();
    let models = [limit("per-peer", 5, &[])];
    let (one, again) = (world.applying(&models, "a"), world.applying(&models, "a"));
    let another = world.applying(&models, "b");
    assert_eq!(taken(&one, 80, world.now), 5);
    assert_eq!(taken(&again, 80, world.now), 0);
    assert_eq!(taken(&another, 80, world.now), 5);
    assert_eq!(world.count("per-peer", "allowed"), 10);
    assert_eq!(world.count("per-peer", "refused"), 3);
}

#[test]
fn what_one_limit_refuses_costs_the_others_nothing() {
    let world = World::new();
    let models = [limit("wide", 10, &[]), limit("narrow", 1, &[80])];
    let applying = world.applying(&models, "a");
    assert_eq!(taken(&applying, 80, world.now), 1);
    let Err(Exhausted(standing)) = take(&applying, 80, world.now) else {
        panic!("a token too many");
    };
    assert_eq!(standing.to_string(), "\"narrow\";r=0;t=1");
    assert_eq!(taken(&applying, 81, world.now), 9);
    assert_eq!(world.count("wide", "refused"), 1);
}

#[test]
fn a_limit_that_says_the_same_keeps_its_buckets() {
    let world = World::new();
    let model = limit("per-peer", 5, &[]);
    let before = world.applying(std::slice::from_ref(&model), "a");
    assert_eq!(taken(&before, 80, world.now), 5);
    let same = world.applying(std::slice::from_ref(&model), "a");
    assert_eq!(taken(&same, 80, world.now), 0);
    let changed = world.applying(&[limit("per-peer", 6, &[])], "a");
    assert_eq!(taken(&changed, 80, world.now), 6);
    drop((before, same));
    let after = world.applying(&[model], "a");
    assert_eq!(taken(&after, 80, world.now), 5);
}

#[test]
fn sources_are_those_of_the_evaluator() {
    use outrider_api::authorization::Source;
    let world = World::new();
    let model = RateLimit {
        sources: Some(vec![Source::Namespace("shop".to_owned())]),
        ..limit("shop", 1, &[])
    };
    let limit = world.limit(&model);
    let counts = |peer: &Peer| {
        limit.counts(&Call {
            peer: peer.id(),
            source: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 0,
            http: None,
        })
    };
    assert!(counts(&peer("a")));
    assert!(!counts(&verified("spiffe://cluster.local/ns/bank/sa/a")));
    let nobody = Peer::Unverified(std::net::Ipv4Addr::LOCALHOST.into());
    assert!(!counts(&nobody));
}

#[test]
fn headers_are_structured_fields() {
    let world = World::new();
    let model = RateLimit {
        name: "a\"b\\é".to_owned(),
        interval: Duration::from_secs(60),
        ..limit("", 100, &[])
    };
    assert_eq!(world.limit(&model).announced(), "\"a\\\"b\\\\\";q=100;w=60");
    let short = RateLimit {
        interval: Duration::from_millis(1500),
        ..limit("short", 7, &[])
    };
    assert_eq!(world.limit(&short).announced(), "\"short\";q=7");
    let applying = world.applying(&[short], "a");
    let standing = take(&applying, 80, world.now).expect("a token");
    assert_eq!(standing[0].to_string(), "\"short\";r=6;t=1");
}

#[test]
fn full_buckets_go_and_their_number_is_bounded() {
    let now = Instant::now();
    let rate = Rate::new(1, SECOND, 100, now);
    let mut buckets = Buckets::default();
    let held = buckets.of(&peer("held"), &rate, now);
    for index in 0..2 * MAX_BUCKETS {
        buckets.of(&peer(&format!("idle-{index}")), &rate, now);
        assert!(buckets.by_peer.len() <= FEW_BUCKETS);
    }
    assert!(Arc::ptr_eq(&held, &buckets.of(&peer("held"), &rate, now)));
    // Of those in use, the one that was left alone for longest goes.
    let empty = |bucket: &Bucket, now| {
        (0..100).for_each(|_| {
            bucket.take(&rate, now);
        })
    };
    empty(&held, now + SECOND);
    let mut oldest = None;
    for index in 0..MAX_BUCKETS as u32 {
        let now = now + index * Duration::from_millis(2);
        let bucket = buckets.of(&peer(&format!("busy-{index}")), &rate, now);
        empty(&bucket, now);
        oldest.get_or_insert(bucket);
        assert!(buckets.by_peer.len() <= MAX_BUCKETS);
    }
    let oldest = oldest.expect("a bucket");
    let now = now + 30 * SECOND;
    assert!(!Arc::ptr_eq(
        &oldest,
        &buckets.of(&peer("busy-0"), &rate, now)
    ));
    assert!(Arc::ptr_eq(&held, &buckets.of(&peer("held"), &rate, now)));
}

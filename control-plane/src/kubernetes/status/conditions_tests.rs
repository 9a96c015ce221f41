use outrider_api::manifest::Location;

use super::*;

const NOW: &str = "2026-11-27T10:00:00Z";

fn problem(field: &str, cause: Cause) -> Problem {
    let location = Location {
        file: std::path::Path::new("x").into(),
        line: 1,
        column: 1,
    };
    Problem::new(location, field, "is wrong").because(cause)
}

fn verdict(outcome: Outcome, problems: Vec<Problem>) -> Verdict {
    Verdict {
        generation: 3,
        outcome,
        problems,
    }
}

fn status(
    kind: Kind,
    verdict: &Verdict,
    (programmed, concerned): (usize, usize),
    object: &Value,
) -> Option<Value> {
    let id = ObjectId {
        kind,
        namespace: "shop".to_owned(),
        name: "one".to_owned(),
    };
    let said = Said {
        id: &id,
        verdict,
        count: Count {
            generation: 3,
            concerned,
            programmed,
            about_callers: false,
            unread: 0,
        },
        meshed: &["shop".to_owned()].into(),
        now: NOW,
    };
    said.status(object)
}

/// Type, status, reason.
fn brief(conditions: &Value) -> Vec<[&str; 3]> {
    let conditions = conditions.as_array().unwrap().iter();
    conditions
        .map(|one| ["type", "status", "reason"].map(|field| one[field].as_str().unwrap()))
        .collect()
}

fn policy() -> Value {
    json!({"spec": {"targetRefs": [
        {"group": "", "kind": "Service", "name": "billing"},
        {"group": "", "kind": "Pod", "selector": {}},
    ]}})
}

#[test]
fn a_policy_says_of_each_target_what_became_of_it() {
    let missing = problem("spec.targetRefs[0].name", Cause::TargetNotFound);
    let verdict = verdict(Outcome::Applied, vec![missing]);
    let status = status(Kind::AuthorizationPolicy, &verdict, (2, 3), &policy()).unwrap();
    let ancestors = &status["ancestors"];
    let reference = json!({"group": "", "kind": "Service", "name": "billing"});
    assert_eq!(ancestors[0]["ancestorRef"], reference);
    assert_eq!(ancestors[1]["ancestorRef"]["name"], "shop");
    assert_eq!(
        ancestors[0]["controllerName"],
        "outrider.mesh/control-plane"
    );
    let programmed = ["Programmed", "False", "PartiallyProgrammed"];
    assert_eq!(
        brief(&ancestors[0]["conditions"]),
        [["Accepted", "False", "TargetNotFound"], programmed]
    );
    assert_eq!(
        brief(&ancestors[1]["conditions"]),
        [["Accepted", "True", "Accepted"], programmed]
    );
    let programmed = &ancestors[0]["conditions"][1];
    assert_eq!(programmed["message"], "2 of 3 sidecars at generation 3");
    assert_eq!(programmed["observedGeneration"], 3);
    assert_eq!(programmed["lastTransitionTime"], NOW);
}

#[test]
fn what_is_bad_says_what_holds_instead() {
    let cases = [
        (
            Outcome::Refusing,
            "it denies everything: spec.rules: is wrong",
            "Programmed",
        ),
        (
            Outcome::LastGood,
            "what it said when it was last good holds: spec.rules: is wrong",
            "Invalid",
        ),
        (
            Outcome::LeftOut,
            "nothing of it holds: spec.rules: is wrong",
            "Invalid",
        ),
    ];
    for (outcome, message, programmed) in cases {
        let verdict = verdict(outcome, vec![problem("spec.rules", Cause::Invalid)]);
        let status = status(Kind::AuthorizationPolicy, &verdict, (1, 1), &policy()).unwrap();
        let conditions = &status["ancestors"][1]["conditions"];
        assert_eq!(brief(conditions)[0], ["Accepted", "False", "Invalid"]);
        assert_eq!(conditions[0]["message"], message);
        assert_eq!(brief(conditions)[1][2], programmed);
    }
}

#[test]
fn a_condition_that_stays_keeps_its_time() {
    let verdict = verdict(Outcome::Applied, Vec::new());
    let mut object = policy();
    object["status"] = status(Kind::RateLimitPolicy, &verdict, (0, 1), &object).unwrap();
    let before = "2026-11-27T09:00:00Z";
    for condition in object["status"]["ancestors"][0]["conditions"]
        .as_array_mut()
        .unwrap()
    {
        condition["lastTransitionTime"] = json!(before);
    }
    let after = status(Kind::RateLimitPolicy, &verdict, (1, 1), &object).unwrap();
    let conditions = &after["ancestors"][0]["conditions"];
    assert_eq!(conditions[0]["lastTransitionTime"], before);
    assert_eq!(
        conditions[1]["lastTransitionTime"], NOW,
        "it was not programmed before"
    );
    object["status"] = after.clone();
    let again = status(Kind::RateLimitPolicy, &verdict, (1, 1), &object);
    assert_eq!(again, Some(after), "nothing to write");
}

#[test]
fn a_route_says_it_of_parents_of_the_mesh_and_leaves_others_alone() {
    let foreign = json!({"parentRef": {"name": "edge"}, "controllerName": "example/gateway", "conditions": []});
    let service = json!({"group": "", "kind": "Service", "name": "billing", "port": 80});
    let route = json!({
        "spec": {"parentRefs": [
            {"name": "edge"},
            service,
            {"group": "", "kind": "Service", "namespace": "other", "name": "x"},
        ]},
        "status": {"parents": [foreign]},
    });
    let bad = problem("spec.rules[0].backendRefs[0].name", Cause::Invalid).as_warning();
    let verdict = verdict(Outcome::Applied, vec![bad]);
    let status = status(Kind::HttpRoute, &verdict, (0, 0), &route).unwrap();
    let parents = status["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 2);
    assert_eq!(
        (&parents[0], &parents[1]["parentRef"]),
        (&foreign, &service)
    );
    assert_eq!(
        brief(&parents[1]["conditions"]),
        [
            ["Accepted", "True", "Accepted"],
            ["ResolvedRefs", "False", "BackendNotFound"],
            ["Programmed", "True", "Programmed"],
        ]
    );
}

#[test]
fn a_route_of_nobody_s_is_left_alone() {
    let verdict = verdict(Outcome::Applied, Vec::new());
    let route = json!({"spec": {"parentRefs": [{"name": "edge"}]}});
    assert_eq!(status(Kind::HttpRoute, &verdict, (0, 0), &route), None);
    // What was said of a parent that is gone is taken back.
    let ours = json!({"parentRef": {}, "controllerName": CONTROLLER_NAME, "conditions": []});
    let route = json!({"spec": {"parentRefs": []}, "status": {"parents": [ours]}});
    let taken_back = status(Kind::HttpRoute, &verdict, (0, 0), &route);
    assert_eq!(taken_back, Some(json!({"parents": []})));
}

#[test]
fn of_two_that_contradict_the_loser_says_so() {
    let conflict = problem("spec.parentRefs[0]", Cause::Conflicted).as_warning();
    let verdict = verdict(Outcome::Applied, vec![conflict]);
    let parent = json!({"group": "", "kind": "Service", "name": "billing"});
    let route = json!({"spec": {"parentRefs": [parent]}});
    let status = status(Kind::TcpRoute, &verdict, (0, 0), &route).unwrap();
    let conditions = &status["parents"][0]["conditions"];
    assert_eq!(brief(conditions)[0], ["Accepted", "False", "Conflicted"]);
}

#[test]
fn the_mesh_config_has_conditions_of_its_own() {
    let verdict = verdict(Outcome::Applied, Vec::new());
    let status = status(Kind::MeshConfig, &verdict, (2, 2), &json!({"spec": {}})).unwrap();
    assert_eq!(
        brief(&status["conditions"]),
        [
            ["Accepted", "True", "Accepted"],
            ["Programmed", "True", "Programmed"]
        ]
    );
}
